"""Textbook forms of methods on a plain ViT: the papers' equations in plain autograd.

A textbook step is what the published scripts do. timm builds the network. Attention holds its
weights as a tensor, softmax(s q k^T) v, as in heekhero/DTL and in timm before fused kernels; a
form with timm's own fused attention is measured beside it. Every block is computed in every step
with autograd enabled, whether or not its input is constant; autograd decides what is kept. AdamW
is torch's default, and the loss is read after each step.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from petlbench.method import Method

Pair = tuple[Tensor, Tensor]  # a tensor of a textbook form, and the same one of petlbench


class Attention(nn.Module):
    """softmax(s q k^T) v with its weights as a tensor; it takes the layers of timm's module."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv: nn.Module = attention.qkv
        self.proj: nn.Module = attention.proj
        self.heads, self.scale = int(attention.num_heads), float(attention.scale)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts  # (B, heads, N, C / heads) each
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Linear(nn.Module):
    """A frozen ViT and a trained head on the mean of its patch tokens, normalised.

    net: a plain ViT of timm, which is changed. fused: it keeps timm's attention.
    """

    def __init__(self, net: Any, *, fused: bool = False) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        net.head.requires_grad_(True)
        head = {id(tensor) for tensor in net.head.parameters()}
        # before a method changes the network
        self.plain = [tensor for tensor in net.parameters() if id(tensor) not in head]
        for block in net.blocks if not fused else ():
            block.attn = Attention(block.attn)

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding -> output of the last block, (B, N, C)"""
        for block in self.net.blocks:
            z = block(z)
        return z

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, K)"""
        z = self.net.norm_pre(self.net._pos_embed(self.net.patch_embed(images)))
        z = self.features(z)[:, self.net.num_prefix_tokens :]
        return self.net.head(self.net.norm(z.mean(dim=1)))  # type: ignore[no-any-return]

    def pairs(self, method: Method) -> Iterator[Pair]:
        """All tensors beside those of petlbench's form."""
        yield from zip(self.plain, method.backbone.plain_parameters, strict=True)
        yield from zip(self.net.head.parameters(), method.backbone.head.parameters(), strict=True)


class Full(Linear):
    """All weights are trained."""

    def __init__(self, net: Any, *, fused: bool = False) -> None:
        super().__init__(net, fused=fused)
        self.requires_grad_(True)


class Updated(nn.Module):
    """W x + b, with s B A x added to query and value (LoRA, eq. 3)."""

    def __init__(self, qkv: nn.Linear, rank: int, dropout: float) -> None:
        super().__init__()
        width = qkv.in_features
        self.qkv = qkv
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in "qv")
        self.up = nn.ModuleList(nn.Linear(rank, width, bias=False) for _ in "qv")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, 3 C)"""
        query, value = (
            up(self.dropout(down(x))) for down, up in zip(self.down, self.up, strict=True)
        )
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return torch.cat([q + query, k, v + value], dim=-1)


class LoRA(Linear):
    """A low-rank update of the query and value projections of every block, scale 1."""

    def __init__(
        self, net: Any, *, fused: bool = False, rank: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__(net, fused=fused)
        for block in net.blocks:
            block.attn.qkv = Updated(block.attn.qkv, rank, dropout)

    def pairs(self, method: Method) -> Iterator[Pair]:
        """All tensors beside those of petlbench's form."""
        yield from super().pairs(method)
        for own, other in zip(self.net.blocks, method.backbone.net.blocks, strict=True):
            for place, name in enumerate(("query", "value")):
                update = getattr(other.attn.qkv, name).op
                yield own.attn.qkv.down[place].weight, update.down.weight
                yield own.attn.qkv.up[place].weight, update.up.weight


class DTL(Linear):
    """h <- h + z a_i c_i at every block i, and from block M on z <- z + theta(h).

    theta(h) = h sigmoid(beta h).
    """

    def __init__(
        self,
        net: Any,
        *,
        fused: bool = False,
        rank: int = 2,
        inject_from: int = 7,
        beta: float = 100,
    ) -> None:
        super().__init__(net, fused=fused)
        self.inject_from, self.beta = inject_from, beta
        width, depth = net.embed_dim, len(net.blocks)
        self.a = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(depth))
        self.c = nn.ModuleList(nn.Linear(rank, width, bias=False) for _ in range(depth))

    def theta(self, h: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        return h * torch.sigmoid(self.beta * h)

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding -> output of the last block, (B, N, C)"""
        h = torch.zeros_like(z)
        layers = zip(self.net.blocks, self.a, self.c, strict=True)
        for number, (block, a, c) in enumerate(layers, 1):
            h = h + c(a(z))
            z = block(z)
            if number >= self.inject_from:
                z = z + self.theta(h)
        return z

    def pairs(self, method: Method) -> Iterator[Pair]:
        """All tensors beside those of petlbench's form."""
        yield from super().pairs(method)
        side: Any = method.side
        for number, (a, c) in enumerate(zip(self.a, self.c, strict=True), 1):
            layer: Any = side[str(number)]
            yield from zip(a.parameters(), layer.down.parameters(), strict=True)
            yield from zip(c.parameters(), layer.up.parameters(), strict=True)


class DTLPlus(DTL):
    """DTL with a depthwise convolution of theta(h) on the grid of patches; one for all blocks."""

    def __init__(self, net: Any, *, fused: bool = False, kernel: int = 3) -> None:
        super().__init__(net, fused=fused)
        width = net.embed_dim
        self.grid = net.patch_embed.grid_size
        self.mix = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)

    def theta(self, h: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C); prefix tokens are not convolved."""
        h = super().theta(h)
        prefix, patches = h.tensor_split([self.net.num_prefix_tokens], dim=1)
        mixed = self.mix(patches.transpose(1, 2).unflatten(2, self.grid))
        return torch.cat([prefix, mixed.flatten(2).transpose(1, 2)], dim=1)

    def pairs(self, method: Method) -> Iterator[Pair]:
        """All tensors beside those of petlbench's form."""
        yield from super().pairs(method)
        mix: Any = method.mix
        yield self.mix.weight, mix["1"].weight
