"""LoRA: Low-Rank Adaptation of Large Language Models, https://arxiv.org/abs/2106.09685.

The form used on vision transformers (PETL-ViT, and eq. 2 of DTL): an update each for query and
value. The scale s multiplies the update directly; there is no alpha / r.
"""

import torch
from torch import Tensor, nn

from petlbench.checks import positive
from petlbench.layers import LowRank, Parallel, Scaled, affine
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.peft import Update, side_by_side
from petlbench.swap import swap_qkv


class LowRankUpdate(nn.Module):
    """s B dropout(A x), the update of eq. 3, with A (r, d) and B (d, r).

    A starts Kaiming-uniform and B at zero, so the network starts as the pre-trained one.
    """

    def __init__(self, width: int, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = positive("method.scale", scale)
        self.op = LowRank(width, width, rank, dropout)  # A: op.down, B: op.up

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)"""
        codes = self.op.dropout(self.op.down(x))  # A x, (..., r)
        return self.scale * self.op.up(codes)  # type: ignore[no-any-return]


class AdaptedQKV(nn.Module):
    """W x + b with s B A x added to its query rows and its value rows, eq. 3.

    W (3 d, d) and b stay frozen; query and value have an A and a B each.
    """

    def __init__(self, qkv: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        width = qkv.in_features
        self.qkv = qkv
        self.query = LowRankUpdate(width, rank, scale, dropout)
        self.value = LowRankUpdate(width, rank, scale, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (..., d) each, in timm's order of rows
        return torch.cat([q + self.query(x), k, v + self.value(x)], dim=-1)

    def folded(self) -> nn.Module:
        """One linear map, W + s B A."""
        return affine(self, self.qkv)

    def low_rank_update(self) -> Update:
        """One update of all rows, for PEFT's files; that of the key rows is zero."""
        query, value = (
            Update(part.op.down.weight, part.op.up.weight, part.scale)
            for part in (self.query, self.value)
        )
        return side_by_side(query, value)


class LoRA(Method):
    """A low-rank update of the query and value projections of every block.

    EVA-02 has them apart from the key's; the parameters are as many.
    """

    def __init__(self, backbone: Backbone, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(backbone)

        def adapted(op: nn.Linear) -> nn.Module:
            update = LowRank(op.in_features, op.out_features, rank, dropout)
            return Parallel(op, Scaled(scale, update))

        swap_qkv(
            backbone,
            lambda qkv: AdaptedQKV(qkv, rank, scale, dropout),
            {"q_proj": adapted, "v_proj": adapted},
        )
