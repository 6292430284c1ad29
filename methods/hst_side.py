"""The side network of HST (hst.py): stages of blocks that attend to the outputs of ViT blocks.

Hierarchical Side-Tuning for Vision Transformers, https://arxiv.org/abs/2310.05393;
AFeng-x/HST @ ee89571c.
"""

import math
from collections.abc import Sequence

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.model.drop_path import DropPath

EPS = 1e-6  # of the norms in and after side blocks; the others have torch's 1e-5


def started(network: nn.Module) -> None:
    """Linear maps from N(0, 0.02^2), convolutions from N(0, 2 / (k^2 out)), and zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            # torch's bounds are the values +-2, so this is in effect a normal.
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Stem(nn.Module):
    """Two convolutions from the image to maps of a quarter of its side, and a LayerNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 2, stride=2)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H / 4, W / 4, width)"""
        maps = self.conv2(F.relu(self.bn(self.conv1(images))))
        return self.norm(maps.permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class Downsampling(nn.Module):
    """A convolution to half the side, and a LayerNorm."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out)

    def forward(self, h: Tensor) -> Tensor:
        """(B, H, W, width) -> (B, H / 2, W / 2, out)"""
        if h.shape[1:3] == (1, 1):
            # Only the centre of a kernel meets the one value. torch's bf16 kernel for CPUs would
            # leave the gradients of the rest as the memory was.
            maps = F.linear(h, self.conv.weight[:, :, 1, 1], self.conv.bias)
        else:
            maps = self.conv(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(maps)  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Attention of a map to a few tokens; all four maps have biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, n: Tensor, tokens: Tensor) -> Tensor:
        """Queries of n (B, H, W, width), keys and values of (B, T, width) -> (B, H, W, width)"""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, width / heads)
            for part in (self.q(n.flatten(1, 2)), self.k(tokens), self.v(tokens))
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.proj(mixed.reshape(n.shape))  # type: ignore[no-any-return]


class SideBlock(nn.Module):
    """h + CA(LN(h), k), then + f, then h + MLP(LN(h)).

    k are the tokens that it attends to, f is the map that it adds.
    """

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, 4 * width)  # with the exact GELU
        # Two, because each draws a mask of its own.
        self.drop_path1, self.drop_path2 = (
            DropPath(drop_path) if drop_path else nn.Identity() for _ in range(2)
        )

    def forward(self, h: Tensor, f: Tensor, tokens: Tensor) -> Tensor:
        """Maps h and f (B, H, W, width), tokens (B, T, width) -> (B, H, W, width)"""
        h = h + self.drop_path1(self.attn(self.norm1(h), tokens)) + f
        return h + self.drop_path2(self.mlp(self.norm2(h)))  # type: ignore[no-any-return]


class SideStage(nn.Module):
    """Side blocks of one width, with a bridge from the ViT's width to theirs.

    enter: what its input passes first. drop_paths: rates of its blocks. grid: of the patches.
    """

    def __init__(
        self,
        enter: nn.Module,
        vit_width: int,
        width: int,
        heads: int,
        drop_paths: Sequence[float],
        grid: tuple[int, int],
    ) -> None:
        super().__init__()
        self.enter = enter
        self.bridge = nn.Linear(vit_width, width)
        self.meta_norms = nn.ModuleList(nn.LayerNorm(width) for _ in drop_paths)
        self.blocks = nn.ModuleList(SideBlock(width, heads, rate) for rate in drop_paths)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.grid = grid

    def read(self, index: int, h: Tensor, meta: Tensor, patches: Tensor) -> Tensor:
        """Side block `index` on a map h (B, H, W, width) -> (B, H, W, width)

        meta (B, M, d), patches (B, N, d): of the ViT block that it reads.
        """
        # The bridge and the interpolation, both linear, commute; the bridge leaves fewer channels.
        maps = self.bridge(patches).transpose(1, 2).unflatten(2, self.grid)
        maps = F.interpolate(maps, size=h.shape[1:3], mode="bilinear", align_corners=False)
        f = maps.permute(0, 2, 3, 1)  # (B, H, W, width)
        mean = f.mean((1, 2)).unsqueeze(1)
        tokens = torch.cat([self.meta_norms[index](self.bridge(meta)), mean], dim=1)
        return self.blocks[index](h, f, tokens)  # type: ignore[no-any-return]
