"""From stored uint8 images to the network's input, on the device, a batch at a time."""

import torch
from torch import Tensor
from torch.nn import functional as F

from petlbench.errors import unknown

INTERPOLATIONS = ("bicubic", "bilinear")


class Preparation:
    """(B, 3, H, W) uint8 -> (B, 3, size, size) float32, normalised as (x / 255 - mean) / std."""

    def __init__(
        self, *, size: int, interpolation: str, mean: list[float], std: list[float]
    ) -> None:
        if interpolation not in INTERPOLATIONS:
            raise unknown("input.interpolation", interpolation, INTERPOLATIONS)
        self.size = size
        self.interpolation = interpolation
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.float().div_(255)
        if pixels.shape[-2:] != (self.size, self.size):
            shape = (self.size, self.size)
            pixels = F.interpolate(pixels, shape, mode=self.interpolation, antialias=True)
            pixels = pixels.clamp_(0, 1)
        return pixels.sub_(self.mean.to(pixels.device)).div_(self.std.to(pixels.device))
