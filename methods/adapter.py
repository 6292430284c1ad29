"""Adapter: Parameter-Efficient Transfer Learning for NLP, https://arxiv.org/abs/1902.00751.

In the form that NOAH uses on vision transformers (ZhangYuanhan-AI/NOAH @ e9c55f36): after the MLP
branch, with QuickGELU. Houlsby's own sites, after both branches, are a preset,
conf/method/adapter_houlsby.yaml.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from petlbench.checks import subset
from petlbench.errors import unknown
from petlbench.layers import Bottleneck, QuickGELU, Residual
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.block import PreNormBlock

SITES = ("attn", "mlp")
# How W_d and W_u start; None: as Bottleneck leaves them, W_d Kaiming-uniform and W_u zero.
INITS: Mapping[str, Callable[[Tensor], object] | None] = {
    "zero_up": None,
    "noah": partial(nn.init.trunc_normal_, std=0.02),  # NOAH's model constructor
    # N(0, 0.01^2) cut at two deviations, so near the identity: section 3.6
    "houlsby": partial(nn.init.trunc_normal_, std=0.01, a=-0.02, b=0.02),
}


class AdaptedBlock(PreNormBlock):
    """z + A(attention(norm1(z))), then z + A(mlp(norm2(z))), with A(m) = m + W_u phi(W_d m).

    phi is QuickGELU. At a site without an adapter A(m) = m.
    """

    def __init__(self, block: nn.Module, make: Callable[[], nn.Module], sites: list[str]) -> None:
        super().__init__(block)
        self.after_attention = make() if "attn" in sites else nn.Identity()
        self.after_mlp = make() if "mlp" in sites else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d) or (B, H, W, d) -> the same shape"""
        z = z + self.after_attention(self.attention(self.norm1(z)))
        return z + self.after_mlp(self.mlp(self.norm2(z)))  # type: ignore[no-any-return]


class Adapter(Method):
    """A bottleneck with a skip connection after branches of every block, inside their residual.

    sites: after `attn`, `mlp`, or both. The branch's drop path comes before the adapter.
    init: a name of INITS; only `zero_up` starts as the pre-trained network.
    """

    unmergeable = "its branch has an activation"

    def __init__(
        self, backbone: Backbone, *, rank: int, dropout: float, sites: Sequence[str], init: str
    ) -> None:
        super().__init__(backbone)
        if init not in INITS:
            raise unknown("method.init", init, INITS)
        start = INITS[init]
        places = subset("method.sites", sites, SITES)

        def adapter(width: int) -> nn.Module:
            body = Bottleneck(width, rank, QuickGELU(), dropout)
            if start is not None:
                start(body.down.weight)
                start(body.up.weight)
            return Residual(body)

        backbone.swap_blocks(
            lambda block, width: AdaptedBlock(block, lambda: adapter(width), places)
        )
        self.starts_as_pretrained = init == "zero_up"
