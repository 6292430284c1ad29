"""LoRA: Low-Rank Adaptation of Large Language Models, https://arxiv.org/abs/2106.09685.

Two forms are in use on vision transformers. `qv` (PETL-ViT, and eq. 2 of DTL): an update each for
query and value. `qkv_shared` (NOAH): one update of query, key and value through one down map, as
many parameters. The scale multiplies as it is; there is no alpha / rank.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from petlbench.checks import fraction
from petlbench.errors import unknown
from petlbench.layers import LowRank, Parallel, QueryAndValue, Scaled
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.swap import swap


def query_and_value(qkv: nn.Linear, *, rank: int, scale: float, dropout: float) -> QueryAndValue:
    """qkv(x) with s B A x added to its query and value rows, eq. 3: W and b stay frozen."""
    width = qkv.in_features
    query, value = (Scaled(scale, LowRank(width, width, rank, dropout)) for _ in "qv")
    return QueryAndValue(qkv, query, value)


def shared(qkv: nn.Linear, *, rank: int, scale: float, dropout: float) -> Parallel:
    """qkv(x) + s B A dropout(x), where B feeds query, key and value."""
    update = LowRank(qkv.in_features, qkv.out_features, rank)
    return Parallel(
        qkv, Scaled(scale, nn.Sequential(nn.Dropout(fraction("dropout", dropout)), update))
    )


def zero_up(update: LowRank) -> None:
    """B = 0: the network starts as it was; LowRank is made so."""


def noah(update: LowRank) -> None:
    """A and B from N(0, 0.02^2), as NOAH's model constructor leaves them."""
    nn.init.trunc_normal_(update.down.weight, std=0.02)
    nn.init.trunc_normal_(update.up.weight, std=0.02)


FORMS: dict[str, Callable[..., nn.Module]] = {"qv": query_and_value, "qkv_shared": shared}
INITS = {"zero_up": zero_up, "noah": noah}


class LoRA(Method):
    """A low-rank update beside the fused query, key and value projection of every block."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: int,
        scale: float,
        dropout: float,
        form: str,
        init: str,
    ) -> None:
        super().__init__(backbone)
        if form not in FORMS:
            raise unknown("method.form", form, FORMS)
        if init not in INITS:
            raise unknown("method.init", init, INITS)
        make = partial(FORMS[form], rank=rank, scale=scale, dropout=dropout)
        swap(backbone, "*.attn.qkv", make)
        for module in backbone.modules():
            if isinstance(module, LowRank):
                INITS[init](module)
        self.starts_as_pretrained = init == "zero_up"
