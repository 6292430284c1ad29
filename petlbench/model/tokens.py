"""How the tokens of a network are laid out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """How z is laid out: `prefix` tokens (class token, registers), then `grid` patches (H, W).

    A 4-dimensional z, (B, H, W, C), is all patches and knows its own grid.
    """

    prefix: int
    grid: tuple[int, int]

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens (B, P, C) and patches (B, N, C), in row-major order."""
        tokens = z.flatten(1, -2)
        return tokens[:, : self.prefix], tokens[:, self.prefix :]

    def on_patches(self, op: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """Apply an op on (B, C, H, W) to the patches of z; prefix tokens bypass it."""
        if z.ndim == 4:
            return op(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        prefix, patches = self.split(z)
        mapped = op(patches.transpose(1, 2).unflatten(2, self.grid))
        return torch.cat([prefix, mapped.flatten(2).transpose(1, 2)], dim=1)
