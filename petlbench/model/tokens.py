"""The layout of tokens: prefix tokens and a grid of patches."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """The layout of z: `prefix` tokens (class token, registers), then patches on a grid (H, W).

    A 4-dimensional z, (B, H, W, C), has patches only, and its shape is the grid.
    """

    prefix: int
    grid: tuple[int, int]

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P + N, C) or (B, H, W, C) -> prefix (B, P, C) and patches (B, N, C), row by row"""
        tokens = z.flatten(1, -2)
        return tokens[:, : self.prefix], tokens[:, self.prefix :]

    def on_patches(self, op: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """Apply an op on (B, C, H, W) to the patches of z; prefix tokens stay as they are.

        z: (B, P + H W, C) or (B, H, W, C); the result has the same layout.
        """
        if z.ndim == 4:
            return op(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, C, H, W) and back
        prefix, patches = self.split(z)
        mapped = op(patches.transpose(1, 2).unflatten(2, self.grid))  # (B, N, C) -> (B, C, H, W)
        return torch.cat([prefix, mapped.flatten(2).transpose(1, 2)], dim=1)
