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

from petlbench.data.images import View
from petlbench.data.lists import Listed
from petlbench.data.task import Split, fingerprint
from petlbench.errors import UserError
from petlbench.record import write_atomically

log = logging.getLogger("petlbench")
SPARE = 256 * 2**20  # bytes that a cache leaves free on its disk
TOLD = 5000  # images between two lines on the way


def opened(listed: Listed, *, view: View, cache: Path) -> Split:
    """The images of a list as (N, 3, size, size).

    Raises UserError for an image that is missing or cannot be decoded, and for a full disk; then
    nothing is left behind.
    """
    if not len(listed):
        raise UserError(f"'{listed.file}' lists no image")
    stem = cache / _key(listed, view)
    pixels, about = stem.with_suffix(".u8"), stem.with_suffix(".json")
    shape = (len(listed), 3, view.size, view.size)
    labels = torch.tensor(listed.labels)
    with _alone(stem.with_suffix(".lock")):
        if not (about.is_file() and _is_whole(pixels, shape)):
            _decode(listed, view, pixels, shape)
            made = fingerprint(_mapped(pixels, shape), labels, _formats(listed))
            write_atomically(about, json.dumps(made).encode())
    known = json.loads(about.read_text())
    return Split(_mapped(pixels, shape), labels, known, listed.original)


def _key(listed: Listed, view: View) -> str:
    digest = hashlib.sha256(f"{view} {listed.upright}\n".encode())
    for path, label in zip(listed.paths, listed.labels, strict=True):
        try:
            found = (listed.root / path).stat()
        except OSError as error:
            raise UserError(
                f"image '{listed.root / path}', which '{listed.file}' lists, is not there; "
                "is the archive whole?"
            ) from error
        digest.update(f"{path} {label} {found.st_size} {found.st_mtime_ns}\n".encode())
    return f"{listed.root.name}-{listed.file.stem}-{digest.hexdigest()[:16]}"


def _decode(listed: Listed, view: View, target: Path, shape: tuple[int, ...]) -> None:
    needed, free = int(np.prod(shape)), shutil.disk_usage(target.parent).free
    if needed + SPARE > free:
        raise UserError(
            f"decoding '{listed.file}' takes {needed / 1e9:.2f} GB and '{target.parent}' has "
            f"{free / 1e9:.2f} GB left; make room, or set PETLBENCH_CACHE to another disk"
        )
    temporary = target.with_suffix(".part")
    try:
        with temporary.open("wb") as file:
            for place in range(len(listed)):
                if place and place % TOLD == 0:
                    log.info("decoding %s: %d of %d", listed.file, place, len(listed))
                pixels = view.of(listed.original(place)).transpose(2, 0, 1)
                file.write(np.ascontiguousarray(pixels).data)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"'{target}' cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


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
