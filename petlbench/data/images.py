"""Image files as uint8 pixels, and these as the normalised input of a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from petlbench.checks import whole
from petlbench.errors import UserError, unknown

INTERPOLATIONS = ("bicubic", "bilinear")
ASPECTS = ("squash", "keep")
# PIL raises SyntaxError for a broken PNG; DecompressionBombError is no OSError
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class View:
    """How an image becomes `size` x `size` pixels: it is resized, then its centre is cropped.

    resize: pixels before the crop, None for `size`. aspect: `squash` resizes to a square, as
    papers do on these benchmarks; `keep` resizes the shorter side.
    """

    size: int
    interpolation: str
    resize: int | None
    aspect: str

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("input.interpolation", self.interpolation, INTERPOLATIONS)
        if self.aspect not in ASPECTS:
            raise unknown("input.aspect", self.aspect, ASPECTS)
        whole("input.size", self.size, low=1)
        if self.resize is not None:
            whole("input.resize", self.resize, low=self.size)

    @property
    def is_plain(self) -> bool:
        """Whether an image is resized to the final square and not cropped."""
        return self.resize in (None, self.size) and self.aspect == "squash"

    def of(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB image -> (size, size, 3), as Resize and CenterCrop of torchvision on PIL."""
        before = self.resize or self.size
        sides = (before, before)
        # torchvision truncates the longer side in Resize and rounds the corner in CenterCrop
        if self.aspect == "keep":
            shorter = min(image.size)
            sides = tuple(int(before * side / shorter) for side in image.size)  # type: ignore[assignment]
        resized = image.resize(sides, Image.Resampling[self.interpolation.upper()])
        left, top = (round((side - self.size) / 2) for side in sides)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))


class BadImage(UserError):
    """A file that cannot be decoded."""


def original(path: Path, *, upright: bool) -> Image.Image:
    """The image of a file, converted to RGB; `upright` applies its EXIF rotation.

    Raises BadImage if it cannot be decoded.
    """
    try:
        with Image.open(path) as file:
            # PIL opens grey images of 16 bits as I;16 (PNG) or I (PGM), a 32-bit TIFF as I too
            if file.mode == "F" or (file.mode == "I" and file.format == "TIFF"):
                raise ValueError("the range of 32-bit pixels is unknown; convert it to 8 bits")
            image: Image.Image = ImageOps.exif_transpose(file) if upright else file
            if image.mode.startswith("I"):  # 16 bits, which PIL would clip at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            # as the published loaders do: alpha is dropped, not blended
            return image.convert("RGB")
    except UNREADABLE as error:
        raise BadImage(f"image '{path}' cannot be decoded: {error}") from error


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
        return pixels.sub_(self.mean.to(pixels.device)).div_(self.std.to(pixels.device))
