"""FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer,
https://arxiv.org/abs/2212.03145.

All weight updates of a network are slices of one tensor, which is factorised: a tensor train
(FacT-TT) or a Tucker decomposition (FacT-TK). Each d x d slice is s U S V with U (d, r) and
V (r, d) shared by all layers of one width, and a core S (r, r) of its own; query, key and value
are three slices, fc1 four beside each other, fc2 four on top of each other. As in
JieShibo/PETL-ViT @ 026e4f12; in a Swin, which that code does not support, each stage has factors
of its own. The MLP of an EVA-02 is 8/3 as wide as the network, which no number of slices fills, so
neither paper nor code defines FacT there.
"""

from collections.abc import Callable
from functools import partial
from itertools import count, islice
from typing import cast

from torch import nn

from petlbench.checks import whole
from petlbench.errors import Unsupported
from petlbench.layers import Parallel, Scaled
from petlbench.method import Method
from petlbench.methods.fact_factors import Factored, OwnCore, SharedCore, Tucker
from petlbench.model.backbone import Backbone
from petlbench.model.stage import Stage
from petlbench.swap import matching, swap

SITES = ("*.attn.qkv", "*.attn.proj", "*.mlp.fc1", "*.mlp.fc2")
MLP = "*.mlp.fc*"
CoreMaker = Callable[[int, int], nn.Module]  # (ins, outs) -> the core of a layer


def factorise(
    backbone: Backbone,
    cores: Callable[[Stage], CoreMaker],
    *,
    rank: int,
    scale: float,
    dropout: float,
) -> None:
    """Add s V S U, as in `Factored`, to all four linear maps of every block.

    cores: called for each stage; its result makes the core of each layer, in the network's order.
    """
    for stage in backbone.stages:
        width = stage.width
        rank = whole("rank", rank, low=1, high=width, of="the width of the network there")
        u, v = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(v.weight)  # every update is zero before training
        core = cores(stage)

        def update(
            layer: nn.Linear, u: nn.Linear = u, v: nn.Linear = v, core: CoreMaker = core
        ) -> nn.Module:
            ins, outs = _slices(layer, u.in_features)
            branch = Factored(u, core(ins, outs), v, dropout, ins, outs)
            return Parallel(layer, Scaled(scale, branch))

        # This order, block by block and site by site, numbers the slots of FacT-TK's P.
        for block in stage.blocks:
            for _, layer in matching(cast(nn.Module, block), MLP):  # also those with other names
                _slices(cast(nn.Linear, layer), width)
            for site in SITES:
                swap(cast(nn.Module, block), site, update)


class FacTTT(Method):
    """FacT-TT, eq. 5: U and V are shared, and each layer has a core of its own."""

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
            # 12 slots a block: query, key, value, proj, then four of fc1 and four of fc2.
            tucker, slots = Tucker(rank, 12 * len(stage.blocks)), count()

            def core(ins: int, outs: int) -> nn.Module:
                first, *_ = islice(slots, max(ins, outs))
                mixed = interleave and outs != 3  # the authors' code splits query, key and value
                return SharedCore(tucker, first, ins, outs, interleave=mixed)

            return core

        factorise(backbone, cores, rank=rank, scale=scale, dropout=dropout)


def _slices(layer: nn.Linear, width: int) -> tuple[int, int]:
    """How many slices of `width` the inputs and the outputs of a layer have."""
    if layer.in_features % width or layer.out_features % width:
        raise Unsupported(
            f"FacT cuts each layer into {width} x {width} slices, but one is "
            f"{layer.out_features} x {layer.in_features}; choose another backbone"
        )
    return layer.in_features // width, layer.out_features // width
