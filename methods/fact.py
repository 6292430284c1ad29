"""FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer,
https://arxiv.org/abs/2212.03145.

All weight updates of a network are slices of one tensor, which is factorised: a tensor train
(FacT-TT) or a Tucker decomposition (FacT-TK). Each d x d slice is s U S V with U (d, r) and
V (r, d) shared by all layers of one width, and a core S (r, r) of its own; query, key and value
are three slices, fc1 four beside each other, fc2 four on top of each other. As in
JieShibo/PETL-ViT @ 026e4f12; in a Swin, which that code does not support, each stage has factors
of its own. On EVA-02, which neither paper nor code has, query, key and value are layers apart, and
the gated MLP is 8/3 as wide as the network, which no number of slices fills: FacT acts on the
attention alone there.
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
from petlbench.swap import has, matching, swap, swap_qkv

ATTENTION = 4  # slices of a block: query, key, value and proj
CoreMaker = Callable[[int, int, bool], nn.Module]  # (ins, outs, is_qkv) -> the core of a layer


def factorise(
    backbone: Backbone,
    cores: Callable[[Stage], CoreMaker],
    *,
    rank: int,
    scale: float,
    dropout: float,
) -> None:
    """Add s V S U, as in `Factored`, to all linear maps of every block.

    cores: called for each stage; its result makes the core of each layer, in the network's order.
    """
    for stage in backbone.stages:
        width = stage.width
        rank = whole("method.rank", rank, low=1, high=width, of="the width of the network there")
        u, v = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(v.weight)  # every update is zero before training
        core = cores(stage)

        def update(
            layer: nn.Linear,
            is_qkv: bool = False,
            u: nn.Linear = u,
            v: nn.Linear = v,
            core: CoreMaker = core,
        ) -> nn.Module:
            ins, outs = _slices(layer, u.in_features)
            branch = Factored(u, core(ins, outs, is_qkv), v, dropout, ins, outs)
            return Parallel(layer, Scaled(scale, branch))

        # This order, block by block and site by site, numbers the slots of FacT-TK's P.
        for block in map(_module, stage.blocks):
            apart = dict.fromkeys(("q_proj", "k_proj", "v_proj"), update)
            swap_qkv(block, partial(update, is_qkv=True), apart)
            swap(block, "*.attn.proj", update)
            if _adapts_mlp(stage):
                swap(block, "*.mlp.fc1", update)
                swap(block, "*.mlp.fc2", update)


class FacTTT(Method):
    """Slices s U S V in which all layers share U and V and each slice has its core S, eq. 5."""

    def __init__(self, backbone: Backbone, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(backbone)

        def core(ins: int, outs: int, is_qkv: bool) -> nn.Module:
            return OwnCore(rank, ins, outs)

        factorise(backbone, lambda stage: core, rank=rank, scale=scale, dropout=dropout)


class FacTTK(Method):
    """Slices s U S V whose cores S too are products of shared factors, C and P, eq. 7."""

    def __init__(
        self, backbone: Backbone, *, rank: int, scale: float, dropout: float, interleave: bool
    ) -> None:
        super().__init__(backbone)

        def cores(stage: Stage) -> CoreMaker:
            # Slots of a block: query, key, value, proj, then those of fc1 and fc2, four each where
            # the MLP is four times as wide as the network.
            number = ATTENTION + 2 * _mlp_slices(stage)
            tucker, slots = Tucker(rank, number * len(stage.blocks)), count()

            def core(ins: int, outs: int, is_qkv: bool) -> nn.Module:
                first, *_ = islice(slots, max(ins, outs))
                mixed = interleave and not is_qkv  # the authors' code splits query, key and value
                return SharedCore(tucker, first, ins, outs, interleave=mixed)

            return core

        factorise(backbone, cores, rank=rank, scale=scale, dropout=dropout)


def _adapts_mlp(stage: Stage) -> bool:
    """Whether FacT acts on the MLPs too: on all networks but EVA-02."""
    return not has(_module(stage.blocks[0]), "*.attn.q_proj")


def _mlp_slices(stage: Stage) -> int:
    """How many slices fc1 has, and fc2."""
    if not _adapts_mlp(stage):
        return 0
    _, fc1 = matching(_module(stage.blocks[0]), "*.mlp.fc1")[0]
    if not isinstance(fc1, nn.Linear):
        return 0  # a convolution of a ConvNeXt, which `swap_qkv` refuses
    _, outs = _slices(fc1, stage.width)
    return outs


def _module(block: object) -> nn.Module:
    return cast(nn.Module, block)


def _slices(layer: nn.Linear, width: int) -> tuple[int, int]:
    """How many slices of `width` the inputs and the outputs of a layer have."""
    if layer.in_features % width or layer.out_features % width:
        raise Unsupported(
            f"FacT cuts each layer into {width} x {width} slices, but one is "
            f"{layer.out_features} x {layer.in_features}; choose another backbone"
        )
    return layer.in_features // width, layer.out_features // width
