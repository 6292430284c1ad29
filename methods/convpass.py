"""Convpass: Convolutional Bypasses Are Better Vision Transformer Adapters,
https://arxiv.org/abs/2207.07039.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, size, subset
from petlbench.errors import unknown
from petlbench.layers import QuickGELU, Scaled
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.block import PreNormBlock
from petlbench.model.tokens import Tokens

SITES = ("attn", "mlp")
Init = Callable[[Tensor], object]
INITS: Mapping[str, Init] = {
    "identity": nn.init.dirac_,  # the centre tap passes each channel on
    "xavier": nn.init.xavier_uniform_,
}


class Bypass(nn.Module):
    """W_u dropout(phi(K(phi(W_d n + b_d)))) + b_u with phi QuickGELU.

    W_d (h, d), W_u (d, h); K is a 3 x 3 convolution over the patch grid. Prefix tokens go through
    the same convolution, each as an image of one pixel: the centre tap and the bias. W_u starts at
    zero.
    """

    units = 2  # a bottleneck and its convolution

    def __init__(
        self,
        width: int,
        hidden: int,
        dropout: float,
        init: Init,
        tokens: Tokens,
    ) -> None:
        super().__init__()
        hidden = size("method.hidden", hidden)
        self.tokens = tokens
        self.down = nn.Linear(width, hidden)
        self.conv = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1)
        self.act = QuickGELU()
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.up = nn.Linear(hidden, width)
        nn.init.xavier_uniform_(self.down.weight)
        init(self.conv.weight)
        nn.init.zeros_(self.up.weight)
        for layer in (self.down, self.conv, self.up):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, n: Tensor) -> Tensor:
        """(B, N, d) or (B, H, W, d) -> the same shape"""
        # In a Swin, n is the map before it is cut into windows, so K crosses their borders.
        hidden = self.act(self.down(n))  # (..., h)
        # Prefix tokens pass unconvolved here and are replaced below.
        mixed = self.tokens.on_patches(self.conv, hidden)
        if n.ndim == 3:
            prefix, _ = self.tokens.split(hidden)
            # A 3 x 3 kernel on one zero-padded pixel: only its centre tap meets a value.
            single = F.linear(prefix, self.conv.weight[:, :, 1, 1], self.conv.bias)
            mixed = torch.cat([single, self.tokens.split(mixed)[1]], dim=1)
        return self.up(self.dropout(self.act(mixed)))  # type: ignore[no-any-return]


class BypassedBlock(PreNormBlock):
    """z + attention(n) + s bypass(n) with n = norm1(z); likewise beside the MLP.

    Each bypass has a drop path with the block's rate and a mask of its own.
    """

    def __init__(self, block: nn.Module, make: Callable[[], nn.Module], sites: list[str]) -> None:
        super().__init__(block)
        self.beside = nn.ModuleDict(
            {site: nn.Sequential(make(), self.own_drop_path()) for site in SITES if site in sites}
        )

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d) or (B, H, W, d) -> the same shape"""
        for site, norm, branch in (
            ("attn", self.norm1, self.attention),
            ("mlp", self.norm2, self.mlp),
        ):
            n = norm(z)
            z = z + branch(n)
            if site in self.beside:
                z = z + self.beside[site](n)
        return z


class Convpass(Method):
    """Convolutional bypasses beside attention, MLP or both (`sites`)."""

    unmergeable = "its branch has an activation"

    def __init__(
        self,
        backbone: Backbone,
        *,
        hidden: int,
        scale: float,
        dropout: float,
        sites: Sequence[str],
        conv_init: str,
    ) -> None:
        super().__init__(backbone)
        if conv_init not in INITS:
            raise unknown("method.conv_init", conv_init, INITS)
        places = subset("method.sites", sites, SITES)

        def bypass(width: int) -> nn.Module:
            init = INITS[conv_init]
            return Scaled(scale, Bypass(width, hidden, dropout, init, backbone.tokens))

        backbone.swap_blocks(
            lambda block, width: BypassedBlock(block, lambda: bypass(width), places)
        )
