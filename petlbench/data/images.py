"""Image files as uint8 pixels. Imports no torch."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petlbench.checks import whole
from petlbench.config.nodes import ASPECTS, INTERPOLATIONS
from petlbench.errors import UserError, unknown
from petlbench.system import file_status

# PIL raises SyntaxError for a broken PNG; DecompressionBombError is no OSError
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
# what it raises of damaged EXIF data
DAMAGED = (struct.error, IndexError, KeyError, OverflowError, SyntaxError, TypeError, ValueError)
ORIENTATION = 0x0112  # the tag of EXIF, and how an image is then turned
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
GREY_MAX = 65_535  # of a grey image of 16 bits
TIFF, PGM = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), (b"P2", b"P5")
JPEG_2000, FITS = (b"\0\0\0\x0cjP", b"\xffO\xffQ"), (b"SIMPLE",)


@dataclass(frozen=True)
class Decoding:
    """How a file becomes an RGB image.

    upright: its EXIF rotation is applied. background: colour behind transparent pixels; None
    drops alpha. grey_max: value that becomes white in grey images of 16 bits; higher ones do too.
    """

    upright: bool
    background: str | None
    grey_max: int = GREY_MAX


# The published loaders call PIL's convert("RGB") alone.
PUBLISHED = Decoding(upright=False, background=None)
# Cameras store a rotation; what is behind transparent pixels is not meant to be seen.
OWN = Decoding(upright=True, background="white")


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


def original(path: Path, decoding: Decoding) -> Image.Image:
    """The image of a file in RGB. Raises BadImage if it cannot be decoded."""
    try:
        file_status(path)
        with Image.open(path, formats=_formats()) as file:
            if _has_32_bits(file):
                raise ValueError("the range of 32-bit pixels is unknown; convert it to 8 bits")
            image: Image.Image = _upright(file) if decoding.upright else file
            if image.mode.startswith("I"):  # 16 bits, which PIL would clip at 255
                image = _in_8_bits(image, decoding)
            if decoding.background is not None and image.has_transparency_data:
                image = _in_front_of(image, decoding.background)
            return image.convert("RGB")
    except UNREADABLE as error:
        raise BadImage(f"image '{path}' cannot be decoded: {error}") from error


def _has_32_bits(file: Image.Image) -> bool:
    """Whether PIL opens 32 bits: it opens 16 as I;16 or, of a PGM, as I too."""
    return file.mode == "F" or (file.mode == "I" and file.format in ("TIFF", "FITS"))


def _upright(file: Image.Image) -> Image.Image:
    """The image turned as its EXIF data say, if these can be read.

    Not PIL's exif_transpose, which writes them again and fails for a wrong value of any tag.
    """
    try:
        turn = TURNS.get(file.getexif().get(ORIENTATION, 1))
    except DAMAGED:
        return file
    return file if turn is None else file.transpose(turn)


def has_transparency(path: Path) -> bool:
    """Whether a file that decodes has pixels that are not opaque."""
    with Image.open(path, formats=_formats()) as file:
        if not file.has_transparency_data:
            return False
        if file.mode.startswith("I"):
            return bool((np.asarray(file) == file.info["transparency"]).any())
        return bool(np.asarray(file.convert("RGBA"))[..., 3].min() < 255)


def grey_peak(content: bytes) -> int | None:
    """The highest value of a grey image of 16 bits, from the bytes of its file; else None.

    None also for a file that cannot be decoded, and for one of 32 bits.
    """
    # the header of PNG holds depth and colour type, https://www.w3.org/TR/png/#11IHDR
    if content.startswith(b"\x89PNG"):
        if content[24:26] != b"\x10\x00":
            return None
    elif not content.startswith((*TIFF, *PGM, *JPEG_2000, *FITS)):
        return None
    try:
        with Image.open(BytesIO(content), formats=_formats()) as file:
            has_16_bits = file.mode.startswith("I") and not _has_32_bits(file)
            return int(np.asarray(file).max()) if has_16_bits else None
    except UNREADABLE:
        return None


def grey_range(peaks: Iterable[int | None]) -> int:
    """The value that becomes white, from the highest values of all images of a data set.

    The highest value of 8 to 16 bits: a scanner of 12 bits writes 0 to 4095 into 16.
    """
    known = [peak for peak in peaks if peak is not None]
    if not known:
        return GREY_MAX
    return int(2 ** max(8, min(16, max(known).bit_length())) - 1)


def _in_8_bits(image: Image.Image, decoding: Decoding) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    scaled = np.minimum(np.rint(values * (255 / decoding.grey_max)), 255).astype(np.uint8)
    grey = Image.fromarray(scaled)
    if decoding.background is not None and "transparency" in image.info:
        # PNG names one value that is transparent
        opaque = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey, Image.fromarray(opaque)))
    return grey


def _in_front_of(image: Image.Image, background: str) -> Image.Image:
    behind = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(behind, image.convert("RGBA"))


@cache
def _formats() -> list[str]:
    """What PIL decodes itself: it hands PostScript to another program, which executes it."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]
