"""Images decoded once into a memory-mapped file of uint8 pixels that all runs share.

A file is found by what it was made from: paths, sizes and dates of the images, their labels, and
the transform. Processes that want the same one wait for the first to make it.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from petlbench.data.images import INTERPOLATIONS
from petlbench.data.lists import Listed
from petlbench.data.task import Split, fingerprint
from petlbench.errors import UserError, unknown
from petlbench.record import write_atomically

log = logging.getLogger("petlbench")
FILTERS = {name: Image.Resampling[name.upper()] for name in INTERPOLATIONS}
SPARE = 256 * 2**20  # bytes that a cache leaves free on its disk
TOLD = 5000  # images between two lines on the way


def opened(root: Path, listed: Listed, *, size: int, interpolation: str, cache: Path) -> Split:
    """The images of a list as (N, 3, size, size), resized without keeping the aspect ratio.

    As torchvision's Resize((size, size)) on PIL images makes them, which is what the authors'
    loaders do on VTAB-1K. Raises UserError for an image that is missing or cannot be decoded, and
    for a full disk; then nothing is left behind.
    """
    if interpolation not in FILTERS:
        raise unknown("input.interpolation", interpolation, FILTERS)
    if not len(listed):
        raise UserError(f"'{listed.file}' lists no image")
    stem = cache / _key(root, listed, size, interpolation)
    pixels, about = stem.with_suffix(".u8"), stem.with_suffix(".json")
    shape = (len(listed), 3, size, size)
    labels = torch.tensor(listed.labels)
    with _alone(stem.with_suffix(".lock")):
        if not (about.is_file() and _is_whole(pixels, shape)):
            _decode(root, listed, FILTERS[interpolation], pixels, shape)
            made = fingerprint(_mapped(pixels, shape), labels, _formats(listed))
            write_atomically(about, json.dumps(made).encode())
    return Split(_mapped(pixels, shape), labels, json.loads(about.read_text()))


def decode(path: Path, size: int, kind: Image.Resampling) -> NDArray[np.uint8]:
    """(size, size, 3): three channels whatever the file has; EXIF rotation is ignored."""
    with Image.open(path) as file:
        image: Image.Image = file
        if file.mode.startswith("I"):  # 16 bits, which PIL would cut off at 255
            image = Image.fromarray((np.asarray(file) >> 8).astype(np.uint8))
        return np.asarray(image.convert("RGB").resize((size, size), kind))


def _key(root: Path, listed: Listed, size: int, interpolation: str) -> str:
    digest = hashlib.sha256(f"{size} {interpolation}\n".encode())
    for path, label in zip(listed.paths, listed.labels, strict=True):
        try:
            found = (root / path).stat()
        except OSError as error:
            raise UserError(
                f"image '{root / path}', which '{listed.file}' lists, is not there; "
                "is the archive whole?"
            ) from error
        digest.update(f"{path} {label} {found.st_size} {found.st_mtime_ns}\n".encode())
    return f"{root.name}-{listed.file.stem}-{digest.hexdigest()[:16]}"


def _decode(
    root: Path, listed: Listed, kind: Image.Resampling, target: Path, shape: tuple[int, ...]
) -> None:
    needed, free = int(np.prod(shape)), shutil.disk_usage(target.parent).free
    if needed + SPARE > free:
        raise UserError(
            f"decoding '{listed.file}' takes {needed / 1e9:.2f} GB and '{target.parent}' has "
            f"{free / 1e9:.2f} GB left; make room, or set PETLBENCH_CACHE to another disk"
        )
    temporary = target.with_suffix(".part")
    try:
        with temporary.open("wb") as file:
            for number, path in enumerate(listed.paths):
                if number and number % TOLD == 0:
                    log.info("decoding %s: %d of %d", listed.file, number, len(listed))
                file.write(np.ascontiguousarray(_image(root / path, shape[-1], kind)).data)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"'{target}' cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _image(path: Path, size: int, kind: Image.Resampling) -> NDArray[np.uint8]:
    try:
        return decode(path, size, kind).transpose(2, 0, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"image '{path}' cannot be decoded: {error}") from error


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    return path.is_file() and path.stat().st_size == int(np.prod(shape))


def _mapped(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The file's pages, read when they are used; nothing is written back."""
    size = int(np.prod(shape))
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(shape)


def _formats(listed: Listed) -> str:
    """Suffixes of the files, for example `jpg` or `jpg, png`."""
    return ", ".join(sorted({Path(path).suffix.lower().lstrip(".") for path in listed.paths}))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; a killed one lets go."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise UserError(
            f"no images can be kept in '{lock.parent}': {error.strerror}; "
            "set PETLBENCH_CACHE to another folder"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
