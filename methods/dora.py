"""DoRA: Weight-Decomposed Low-Rank Adaptation, https://arxiv.org/abs/2402.09353."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, positive
from petlbench.layers import LowRank, affine
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.peft import Update, side_by_side
from petlbench.swap import swap_qkv


class Decomposed(nn.Module):
    """The change of W x when W becomes m V / ||V|| with V = W + s B A, eq. 5.

    A (r, d) and B (out, r) start as LoRA's, and the magnitudes m (out) as the norms of the rows of
    W, so nothing changes at the start. If the backbone is quantised, W is so in V but not in the
    start of m, which gives the quantised rows their exact norms. The norms ||V|| are constants for
    the gradient (section 4.3).
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        out, width = weight.shape
        self.update = LowRank(width, out, rank)
        self.scale = positive("method.scale", scale)
        self.magnitude = nn.Parameter(weight.detach().norm(dim=1))

    def forward(self, x: Tensor, product: Tensor, weight: Tensor) -> Tensor:
        """(..., d), product = x W^T (..., out), weight = W (out, d) -> (..., out)"""
        with torch.no_grad():
            # (out, d), materialised without a graph and only for its row norms.
            change = self.scale * self.update.up.weight @ self.update.down.weight
            norms = (weight + change).norm(dim=1)
        ratio, dtype = self.magnitude / norms, product.dtype
        # m V x / ||V|| - W x, with V x = W x + s B A x; bf16 has no numbers between 1 and 1.0078
        more = (ratio - 1).to(dtype) * product
        return more + (ratio * self.scale).to(dtype) * self.update(x)  # type: ignore[no-any-return]


class DecomposedQKV(nn.Module):
    """W x + b with decomposed query and value rows; the bias stays outside the scaling.

    Dropout acts on the x of both changes, also on their W x, as in huggingface/peft.
    """

    def __init__(self, qkv: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.qkv = qkv
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        query, _, value = qkv.weight.chunk(3)
        self.query = Decomposed(query, rank, scale)
        self.value = Decomposed(value, rank, scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        query, _, value = self.qkv.weight.chunk(3)
        if self.training and self.dropout.p:
            x = self.dropout(x)
            products = F.linear(x, query), F.linear(x, value)  # (..., d) each
        else:  # without dropout q and v have W x already
            query_bias, _, value_bias = _bias(self.qkv).chunk(3)
            products = q - query_bias, v - value_bias
        q = q + self.query(x, products[0], query)
        v = v + self.value(x, products[1], value)
        return torch.cat([q, k, v], dim=-1)

    def folded(self) -> nn.Module:
        """One linear map."""
        return affine(self, self.qkv)

    def low_rank_update(self) -> Update:
        """One decomposed update of all rows; the key's magnitudes are its norms."""
        query, value = (
            Update(part.update.down.weight, part.update.up.weight, part.scale)
            for part in (self.query, self.value)
        )
        # A magnitude equal to ||W|| leaves the rows of W as they are, eq. 5.
        key = self.qkv.weight.chunk(3)[1].norm(dim=1)
        magnitude = torch.cat([self.query.magnitude, key, self.value.magnitude])
        return replace(side_by_side(query, value), magnitude=magnitude)


class DecomposedLinear(nn.Module):
    """W x + b with W decomposed, for a query or value apart from the others; else as above."""

    def __init__(self, op: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.op = op
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.change = Decomposed(op.weight, rank, scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., out)"""
        out = self.op(x)
        if self.training and self.dropout.p:
            x = self.dropout(x)
            product = F.linear(x, self.op.weight)
        else:
            product = out - _bias(self.op)
        return out + self.change(x, product, self.op.weight)  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """One linear map."""
        return affine(self, self.op)

    def low_rank_update(self) -> Update:
        """The decomposed update."""
        part = self.change
        pair = part.update.down.weight, part.update.up.weight
        return Update(*pair, part.scale, part.magnitude)


class DoRA(Method):
    """Query and value projections as magnitude times direction, the direction updated by low rank.

    As in huggingface/peft. The authors give no recipe for ViTs: the values are LoRA's. EVA-02 has
    these projections apart from the key's, and each draws a dropout mask of its own there.
    """

    def __init__(self, backbone: Backbone, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(backbone)

        def decomposed(op: nn.Linear) -> nn.Module:
            return DecomposedLinear(op, rank, scale, dropout)

        swap_qkv(
            backbone,
            lambda qkv: DecomposedQKV(qkv, rank, scale, dropout),
            {"q_proj": decomposed, "v_proj": decomposed},
        )


def _bias(layer: nn.Linear) -> Tensor:
    """(out), zeros if the layer has no bias"""
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
