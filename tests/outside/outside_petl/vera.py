"""VeRA: Vector-based Random Matrix Adaptation, https://arxiv.org/abs/2310.11454."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import positive, whole
from petlbench.layers import affine
from petlbench.method import Method, ParameterGroup
from petlbench.model.backbone import Backbone
from petlbench.swap import swap


class SharedMatrices(nn.Module):
    """A (rank, d) and B (d, rank): random, frozen and shared by all blocks."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, width)), False)
        self.register_buffer("b", nn.init.kaiming_uniform_(torch.empty(width, rank)))
        self.b: Tensor


class VectorUpdate(nn.Module):
    """b * B (d * A x), eq. 2, beside query and value; d (rank) and b (width) are trained."""

    def __init__(self, qkv: nn.Linear, shared: SharedMatrices, start: float) -> None:
        super().__init__()
        self.qkv = qkv
        self.shared = shared
        rank, width = shared.a.shape
        self.d = nn.Parameter(torch.full((2, rank), start))
        self.scale = nn.Parameter(torch.zeros(2, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., 3 width)"""
        codes = F.linear(x, self.shared.a)
        query, value = (
            scale * F.linear(d * codes, self.shared.b)
            for d, scale in zip(self.d, self.scale, strict=True)
        )
        return self.qkv(x) + torch.cat([query, torch.zeros_like(query), value], dim=-1)  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """One linear layer."""
        return affine(self, self.qkv)


class VeRA(Method):
    """Trained vectors between shared random matrices, at a learning rate of their own."""

    def __init__(self, backbone: Backbone, *, rank: int, start: float, vector_lr: float) -> None:
        super().__init__(backbone)
        self.vector_lr = positive("method.vector_lr", vector_lr)
        shared = SharedMatrices(backbone.widths[0], whole("method.rank", rank, low=1))
        start = positive("method.start", start)
        swap(backbone, "*.attn.qkv", lambda qkv: VectorUpdate(qkv, shared, start))

    def parameter_groups(self) -> Iterable[ParameterGroup]:
        """The vectors."""
        updates = [module for module in self.modules() if isinstance(module, VectorUpdate)]
        vectors = [tensor for update in updates for tensor in (update.d, update.scale)]
        return [ParameterGroup(vectors, lr=self.vector_lr)]
