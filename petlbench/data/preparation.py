"""Pixels as the normalised input of a network."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from petlbench.data.images import View


class Preparation:
    """(B, 3, H, W) uint8 -> (B, 3, size, size) float32, normalised as (x / 255 - mean) / std."""

    def __init__(self, view: View, *, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size = view.size
        self.interpolation = view.interpolation
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.float().div_(255)
        if pixels.shape[-2:] != (self.size, self.size):
            # PIL always filters before it shrinks, so antialias; bicubic overshoots, so clamp
            shape = (self.size, self.size)
            pixels = F.interpolate(pixels, shape, mode=self.interpolation, antialias=True)
            pixels = pixels.clamp_(0, 1)
        # a copy that blocks waits for all steps that the device has not done yet
        mean, std = (part.to(pixels.device, non_blocking=True) for part in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)
