"""One image file: its bytes, its pixels, and whether they were compressed with loss."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from petlbench.data import images
from petlbench.data.images import Decoding
from petlbench.errors import UserError
from petlbench.system import file_status

LOSSY = ("AVIF", "JPEG", "JPEG2000", "MPO")  # as a rule: AVIF and JPEG 2000 can be lossless


@dataclass(frozen=True)
class ImageFacts:
    """What is known of a file that decodes.

    size: width and height in pixels. format: of the content, as PIL names it, whatever the suffix
    is. bytes, sha256: of the file. pixels: digest of the decoded RGB image, equal for equal images
    in different files. transparent: whether some pixels are not opaque. grey_peak: highest value
    of a grey image of 16 bits, else None.
    """

    size: tuple[int, int]
    format: str
    lossy: bool
    bytes: int
    sha256: str
    pixels: str
    transparent: bool
    grey_peak: int | None


def examine(path: Path, decoding: Decoding) -> ImageFacts:
    """Read and decode a file as training does. Raises UserError if that fails."""
    try:
        file_status(path)
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"image '{path}' cannot be read: {error.strerror}") from error
    image = images.original(path, decoding)
    # with the size: images of different shape may have the same bytes
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes())
    with Image.open(BytesIO(content)) as file:
        file_format = file.format or "unknown"
        lossy = _is_lossy(file_format, content, str(file.info.get("compression")))
    return ImageFacts(
        size=image.size,
        format=file_format,
        lossy=lossy,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        pixels=digest.hexdigest()[:32],
        transparent=images.has_transparency(path),
        grey_peak=images.grey_peak(content),
    )


def _is_lossy(file_format: str, content: bytes, compression: str) -> bool:
    if file_format == "WEBP":
        return b"VP8L" not in content  # the chunk of lossless pixels
    return file_format in LOSSY or (file_format == "TIFF" and "jpeg" in compression)
