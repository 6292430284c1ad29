"""Mona: 5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks,
https://arxiv.org/abs/2408.08345.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, size
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.block import PreNormBlock
from petlbench.model.tokens import Tokens

KERNELS = (3, 5, 7)
NORM_EPS = 1e-5  # torch's default; the norms of a ViT have 1e-6


class MultiScale(nn.Module):
    """t + C(t) with t = z + (K_3(z) + K_5(z) + K_7(z)) / 3: depthwise K_k, and C a 1 x 1 one."""

    units = len(KERNELS) + 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(
            nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
            for kernel in KERNELS
        )
        self.mix = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, h, H, W) -> (B, h, H, W)"""
        filtered = torch.stack([conv(z) for conv in self.depthwise]).sum(0)
        t = z + filtered / len(KERNELS)
        return t + self.mix(t)  # type: ignore[no-any-return]


class MonaLayer(nn.Module):
    """z + W_u dropout(GELU(K(W_d (a LN(z) + c z)))), with W_d (h, d), W_u (d, h), a and c (d).

    Prefix tokens bypass the convolutions K.
    """

    units = 1

    def __init__(self, width: int, hidden: int, dropout: float, tokens: Tokens) -> None:
        super().__init__()
        hidden = size("method.hidden", hidden)
        self.tokens = tokens
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.of_norm = nn.Parameter(torch.full((width,), 1e-6))  # a
        self.of_input = nn.Parameter(torch.ones(width))  # c
        self.down = nn.Linear(width, hidden)
        self.convolutions = MultiScale(hidden)
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.up = nn.Linear(hidden, width)
        # The authors' backbone initialiser draws all linear maps like this, W_u too.
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d) or (B, H, W, d) -> the same shape"""
        hidden = self.down(self.of_norm * self.norm(z) + self.of_input * z)  # (B, ..., h)
        mixed = F.gelu(self.tokens.on_patches(self.convolutions, hidden))
        return z + self.up(self.dropout(mixed))  # type: ignore[no-any-return]


class MonaBlock(PreNormBlock):
    """A Mona layer on the residual stream after attention, and one after the MLP."""

    def __init__(self, block: nn.Module, first: MonaLayer, second: MonaLayer) -> None:
        super().__init__(block)
        self.after_attention = first
        self.after_mlp = second

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d) or (B, H, W, d) -> the same shape"""
        z = self.after_attention(z + self.attention(self.norm1(z)))
        return self.after_mlp(z + self.mlp(self.norm2(z)))  # type: ignore[no-any-return]


class Mona(Method):
    """Multi-cognitive visual adapters: convolutions of three sizes inside a bottleneck.

    As in Leiyi-Hu/mona for Swin. Nothing starts at zero, so training does not start at the
    pre-trained network. On a ViT with backbone.pool=cls the convolutions of the last block have no
    effect, because the class token bypasses them.
    """

    starts_as_pretrained = False
    unmergeable = "its branch has an activation"

    def __init__(self, backbone: Backbone, *, hidden: int, dropout: float) -> None:
        super().__init__(backbone)

        def adapted(block: nn.Module, width: int) -> nn.Module:
            first, second = (MonaLayer(width, hidden, dropout, backbone.tokens) for _ in range(2))
            return MonaBlock(block, first, second)

        backbone.swap_blocks(adapted)
