"""Adapter: Parameter-Efficient Transfer Learning for NLP, https://arxiv.org/abs/1902.00751.

In the form that NOAH gives it on vision transformers (ZhangYuanhan-AI/NOAH @ e9c55f36): behind the
MLP branch, with QuickGELU. Houlsby's own places, behind both branches, are a preset,
conf/method/adapter_houlsby.yaml.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from petlbench.checks import subset
from petlbench.errors import unknown
from petlbench.layers import Bottleneck, QuickGELU, Residual
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.block import OpenBlock

SITES = ("attn", "mlp")


def zero_up(adapter: Bottleneck) -> None:
    """W_u = 0: the network starts as it was; Bottleneck is made so."""


def noah(adapter: Bottleneck) -> None:
    """Weights from N(0, 0.02^2), as NOAH's model constructor leaves them."""
    nn.init.trunc_normal_(adapter.down.weight, std=0.02)
    nn.init.trunc_normal_(adapter.up.weight, std=0.02)


def houlsby(adapter: Bottleneck) -> None:
    """Weights from N(0, 0.01^2), cut at two deviations: near the identity (section 3.6)."""
    for layer in (adapter.down, adapter.up):
        nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)


INITS: Mapping[str, Callable[[Bottleneck], None]] = {
    "zero_up": zero_up,
    "noah": noah,
    "houlsby": houlsby,
}


class AdaptedBlock(OpenBlock):
    """z + A(attention(norm1(z))), then z + A(mlp(norm2(z))): A(m) = m + W_u phi(W_d m), or m."""

    def __init__(self, block: nn.Module, make: Callable[[], nn.Module], at: list[str]) -> None:
        super().__init__(block)
        self.after_attention = make() if "attn" in at else nn.Identity()
        self.after_mlp = make() if "mlp" in at else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.after_attention(self.attention(self.norm1(z)))
        return z + self.after_mlp(self.mlp(self.norm2(z)))  # type: ignore[no-any-return]


class Adapter(Method):
    """A bottleneck with a skip connection behind branches of every block, inside their residual.

    sites: behind `attn`, `mlp`, or both. The branch's drop path comes before the adapter.
    """

    unmergeable = "its branch has an activation"

    def __init__(
        self, backbone: Backbone, *, rank: int, dropout: float, sites: Sequence[str], init: str
    ) -> None:
        super().__init__(backbone)
        if init not in INITS:
            raise unknown("method.init", init, INITS)
        at = subset("method.sites", sites, SITES)

        def adapter(width: int) -> nn.Module:
            body = Bottleneck(width, rank, QuickGELU(), dropout)
            INITS[init](body)
            return Residual(body)

        backbone.swap_blocks(lambda block, width: AdaptedBlock(block, lambda: adapter(width), at))
        self.starts_as_pretrained = init == "zero_up"
