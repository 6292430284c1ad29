"""Images decoded once into a memory-mapped file of uint8 pixels that all runs share.

A file is found by what it was made from: paths, sizes and dates of the images, their labels, and
the transform. Processes that want the same one wait for the first to make it.
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from petlbench.data.images import View
from petlbench.data.readers.lists import Listed
from petlbench.data.task import Split, fingerprint
from petlbench.errors import UserError
from petlbench.system import file_lock, threads, write_atomically

log = logging.getLogger("petlbench")
SPARE = 256 * 2**20  # bytes that a cache leaves free on its disk
ELSEWHERE = "set PETLBENCH_CACHE to another disk"
TOGETHER = 100  # images that threads decode before they are written
TOLD = 50 * TOGETHER  # images between two lines on the way


@dataclass(frozen=True)
class Kept:
    """The file of a list's pixels and the file of their fingerprint; shape: (N, 3, size, size)."""

    pixels: Path
    about: Path
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes that the pixels take."""
        return int(np.prod(self.shape))

    @property
    def is_there(self) -> bool:
        """Whether both files are there and whole."""
        whole = self.pixels.is_file() and self.pixels.stat().st_size == self.size
        return whole and self.about.is_file()

    def mapped(self) -> torch.Tensor:
        """The file's pages, read when they are used; nothing is written back."""
        name, size = str(self.pixels), self.size
        return torch.from_file(name, shared=False, size=size, dtype=torch.uint8).view(self.shape)


def opened(listed: Listed, *, view: View, cache: Path) -> Split:
    """The images of a list as (N, 3, size, size).

    Raises UserError for an image that is missing or cannot be decoded, and for a full disk; then
    nothing is left behind.
    """
    kept = place(listed, view=view, cache=cache)
    labels = torch.tensor(listed.labels)
    if not kept.is_there:  # a store that is whole may lie where nothing can be written
        with file_lock(kept.pixels.with_suffix(".lock"), "keep images", ELSEWHERE):
            if not kept.is_there:
                _decode(listed, view, kept)
                made = fingerprint(kept.mapped(), labels, _formats(listed))
                write_atomically(kept.about, json.dumps(made).encode())
    known = json.loads(kept.about.read_text())
    return Split(kept.mapped(), labels, known, listed.original)


def place(listed: Listed, *, view: View, cache: Path) -> Kept:
    """Where the images of a list are kept, or will be. Raises UserError where one is missing."""
    key = _key(listed, view)  # may have dots, so no with_suffix
    shape = (len(listed), 3, view.size, view.size)
    return Kept(cache / f"{key}.u8", cache / f"{key}.json", shape)


def room(needed: int, folder: Path, what: str, advice: str) -> None:
    """Refuse to begin what takes `needed` bytes in a folder that has no room for them."""
    free = free_bytes(folder)
    if needed + SPARE > free:
        raise UserError(
            f"{what} takes {needed / 1e9:.2f} GB and '{folder}' has {free / 1e9:.2f} GB left; "
            f"make room, or {advice}"
        )


def free_bytes(folder: Path) -> int:
    """What is left on the disk of a folder, which need not be there yet."""
    there = next(above for above in (folder, *folder.absolute().parents) if above.exists())
    return shutil.disk_usage(there).free


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
        digest.update(os.fsencode(f"{path} {label} {found.st_size} {found.st_mtime_ns}\n"))
    return f"{listed.root.name}-{listed.file.stem}-{digest.hexdigest()[:16]}"


def _decode(listed: Listed, view: View, kept: Kept) -> None:
    def pixels(number: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(view.of(listed.original(number)).transpose(2, 0, 1))

    room(kept.size, kept.pixels.parent, f"decoding '{listed.file}'", ELSEWHERE)
    temporary = kept.pixels.with_suffix(".part")
    try:
        with temporary.open("wb") as file, threads() as pool:
            for start in range(0, len(listed), TOGETHER):
                if start and start % TOLD == 0:
                    log.info("decoding %s: %d of %d", listed.file, start, len(listed))
                for image in pool.map(pixels, range(len(listed))[start : start + TOGETHER]):
                    file.write(image.data)
        os.replace(temporary, kept.pixels)
    except OSError as error:
        raise UserError(f"'{kept.pixels}' cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _formats(listed: Listed) -> str:
    """Suffixes of the files, for example `jpg` or `jpg, png`."""
    return ", ".join(sorted({Path(path).suffix.lower().lstrip(".") for path in listed.paths}))
