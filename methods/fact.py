"""FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer,
https://arxiv.org/abs/2212.03145.

All weight updates of a network are slices of one tensor, which is factorised: a tensor train
(FacT-TT) or a Tucker decomposition (FacT-TK). Each d x d slice is s U S V with U (d, r) and
V (r, d) shared by all layers of one width, and a core S (r, r) of its own; query, key and value
are three slices, fc1 four beside each other, fc2 four on top of each other. As in
JieShibo/PETL-ViT @ 026e4f12; in a Swin, which that code does not treat, each stage has factors of
its own.
"""

from collections.abc import Callable
from functools import partial
from itertools import count, islice
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, whole
from petlbench.errors import Unsupported
from petlbench.layers import Parallel, Scaled
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.stage import Stage
from petlbench.swap import swap

SITES = ("*.attn.qkv", "*.attn.proj", "*.mlp.fc1", "*.mlp.fc2")


class Factored(nn.Module):
    """V(dropout(S U(x))): x is cut into `ins` slices of the width and the output into `outs`.

    core: makes S, of shape (outs r, ins r), from nothing.
    """

    def __init__(
        self, u: nn.Linear, core: nn.Module, v: nn.Linear, dropout: float, ins: int, outs: int
    ) -> None:
        super().__init__()
        self.u = u
        self.core = core
        self.v = v
        self.dropout = nn.Dropout(fraction("dropout", dropout))
        self.slices = (ins, outs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., ins d) -> (..., outs d)"""
        ins, outs = self.slices
        codes = self.u(x.unflatten(-1, (ins, -1))).flatten(-2)
        codes = self.dropout(F.linear(codes, self.core()))
        return self.v(codes.unflatten(-1, (outs, -1))).flatten(-2)  # type: ignore[no-any-return]


class OwnCore(nn.Module):
    """FacT-TT: a core for each layer, Kaiming-uniform."""

    def __init__(self, rank: int, ins: int, outs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(ins * rank, outs * rank).weight.detach())
        self.units = max(ins, outs)

    def forward(self) -> Tensor:
        """(outs r, ins r)"""
        return self.weight


class Tucker(nn.Module):
    """FacT-TK: C (r, r, r) and P (r, slots), shared; core t is sum_j C[:, :, j] P[j, t]."""

    def __init__(self, rank: int, slots: int) -> None:
        super().__init__()
        self.c = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank)))
        self.p = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, slots)))


class SharedCore(nn.Module):
    """The slices of one layer, out of the factors that all layers share.

    `interleave`: in the authors' code the four slices of fc1 and fc2, an array (r, r, 4), are read
    row by row as (r, 4 r), so that they interleave; else they lie side by side, as the paper's
    formula has them.
    """

    def __init__(
        self, tucker: Tucker, first: int, ins: int, outs: int, *, interleave: bool
    ) -> None:
        super().__init__()
        self.tucker = tucker
        self.first = first
        self.slices = (ins, outs)
        self.interleave = interleave
        self.units = max(ins, outs)

    def forward(self) -> Tensor:
        """(outs r, ins r)"""
        ins, outs = self.slices
        chosen = self.tucker.p[:, self.first : self.first + max(ins, outs)]
        slices = self.tucker.c @ chosen  # (r, r, slices), slice on the right of a row vector
        wide = slices.flatten(1) if self.interleave else slices.mT.flatten(1)  # (r, slices r)
        return wide if ins > 1 else wide.T


CoreMaker = Callable[[int, int], nn.Module]  # (ins, outs) -> what gives the core of a layer


def factorise(
    backbone: Backbone,
    cores: Callable[[Stage], CoreMaker],
    *,
    rank: int,
    scale: float,
    dropout: float,
) -> None:
    """Add s V S U, as in `Factored`, to all four linear maps of every block.

    cores: called for each stage; what it returns is asked in the order of the network.
    """
    for stage in backbone.stages:
        width = stage.width
        rank = whole("rank", rank, low=1, high=width, of="the width of the network there")
        u, v = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(v.weight)
        core = cores(stage)

        def update(
            layer: nn.Linear, u: nn.Linear = u, v: nn.Linear = v, core: CoreMaker = core
        ) -> nn.Module:
            ins, outs = _slices(layer, u.in_features)
            branch = Factored(u, core(ins, outs), v, dropout, ins, outs)
            return Parallel(layer, Scaled(scale, branch))

        for block in stage.blocks:
            for site in SITES:
                swap(cast(nn.Module, block), site, update)


class FacTTT(Method):
    """FacT-TT, eq. 5: U and V are shared, each core is a layer's own."""

    def __init__(self, backbone: Backbone, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(backbone)
        factorise(
            backbone, lambda stage: partial(OwnCore, rank), rank=rank, scale=scale, dropout=dropout
        )


class FacTTK(Method):
    """FacT-TK, eq. 7: the cores too are products of shared factors, C and P."""

    def __init__(
        self, backbone: Backbone, *, rank: int, scale: float, dropout: float, interleave: bool
    ) -> None:
        super().__init__(backbone)

        def cores(stage: Stage) -> CoreMaker:
            tucker, slots = Tucker(rank, 12 * len(stage.blocks)), count()

            def core(ins: int, outs: int) -> nn.Module:
                taken = list(islice(slots, max(ins, outs)))
                mixed = interleave and outs != 3  # query, key and value stay apart there too
                return SharedCore(tucker, taken[0], ins, outs, interleave=mixed)

            return core

        factorise(backbone, cores, rank=rank, scale=scale, dropout=dropout)


def _slices(layer: nn.Linear, width: int) -> tuple[int, int]:
    if layer.in_features % width or layer.out_features % width:
        raise Unsupported(
            f"FacT cuts each layer into {width} x {width} slices, and one is "
            f"{layer.out_features} x {layer.in_features}; choose another backbone"
        )
    return layer.in_features // width, layer.out_features // width
