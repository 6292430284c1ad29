"""One image file: its bytes, its pixels, and whether they went through a lossy format."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from petlbench.data import images
from petlbench.errors import UserError

LOSSY = ("AVIF", "JPEG", "JPEG2000", "MPO")  # as a rule: AVIF and JPEG 2000 can be lossless


@dataclass(frozen=True)
class Seen:
    """What there is to say of a file that decodes.

    format: of its content, as PIL names it, whatever its suffix says. weight: bytes of the file,
    sha256: of the file.
    pixels: digest of the decoded RGB image, equal for equal images in different files.
    """

    size: tuple[int, int]
    format: str
    lossy: bool
    weight: int
    sha256: str
    pixels: str


def examine(path: Path, *, upright: bool) -> Seen:
    """Read and decode a file as training does. Raises UserError where that fails."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"image '{path}' cannot be read: {error.strerror}") from error
    image = images.original(path, upright=upright)
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes())
    with Image.open(BytesIO(content)) as file:
        kind = file.format or "unknown"
        lossy = _is_lossy(kind, content, str(file.info.get("compression")))
    return Seen(
        size=image.size,
        format=kind,
        lossy=lossy,
        weight=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        pixels=digest.hexdigest()[:32],
    )


def _is_lossy(kind: str, content: bytes, compression: str) -> bool:
    if kind == "WEBP":
        return b"VP8L" not in content  # the chunk of lossless pixels
    return kind in LOSSY or (kind == "TIFF" and "jpeg" in compression)
