"""Random tensors of the pre-training scenes."""

import torch
from torch import Tensor


class Draws:
    """Random numbers of one seed, on one device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        # drawn where they are used: a GPU's generator gives other numbers than the CPU's
        self.random = torch.Generator(device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers from low to high, of a shape."""
        draws = torch.rand(shape, generator=self.random, device=self.device)
        return draws * (high - low) + low

    def whole(self, below: int, *shape: int) -> Tensor:
        """Whole numbers from 0 to below - 1, of a shape."""
        return torch.randint(0, below, shape, generator=self.random, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, of a shape."""
        return torch.randn(shape, generator=self.random, device=self.device)

    def colour(self, batch: int, hue: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(hue (B,) in [0, 1), RGB (B, 3)) of random saturation and value."""
        hue = self.uniform(batch) if hue is None else hue
        saturation, value = self.uniform(batch, 1), self.uniform(batch, 1, low=0.15)
        # HSV to RGB: v - v s max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6, n = 5, 3, 1
        turn = (torch.tensor([5.0, 3.0, 1.0], device=self.device) + hue[:, None] * 6) % 6
        return hue, value - value * saturation * torch.minimum(turn, 4 - turn).clamp(0, 1)
