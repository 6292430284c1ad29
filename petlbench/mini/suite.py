"""The embedded suite: tasks rendered from a seed on first use, and cached."""

import hashlib
import logging
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from petlbench.data.task import Split, Task, fingerprint
from petlbench.mini.render import SIZE, Draw

RENDERER = 1  # part of the cache's file names: raise it with any change of an image
TRAIN, VAL = 800, 200
SPLITS: dict[str, slice] = {
    "train": slice(0, TRAIN),
    "val": slice(TRAIN, TRAIN + VAL),
    "trainval": slice(0, TRAIN + VAL),
    "test": slice(TRAIN + VAL, None),
}
FORMAT = f"rendered uint8 RGB {SIZE} px"
log = logging.getLogger("petlbench")

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]  # (N, 3, SIZE, SIZE), (N,)


def load(
    *,
    name: str,
    title: str,
    suite: str,
    group: str,
    classes: int,
    images: int,
    seed: int,
    sha256: str | None,
    cache: str,
) -> Task:
    """A task of the suite: 800 images to train on, 200 to validate, the rest of `images` to test.

    sha256: of all pixels and labels as the project made them; where this machine's differ, a
    warning says so. cache: folder of the rendered images.
    """
    read = partial(_open, name, images, seed, sha256, Path(cache).expanduser() / "mini")
    return Task(name, title, suite, group, classes, ("test",), read)


def render(name: str, images: int, seed: int) -> Images:
    """The first `images` images of a task and their labels."""
    image: Callable[[Draw, int], tuple[NDArray[np.uint8], int]]
    image = import_module(f"petlbench.mini.tasks.{name}").image
    numbers = range(images)
    made = [image(Draw(name, seed, number), number) for number in _told(numbers, f"rendering {name}")]
    pixels = np.stack([pixels for pixels, _ in made]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels), np.array([label for _, label in made], dtype=np.int64)


def digest(found: Images) -> str:
    """sha256 of pixels and labels."""
    pixels, labels = found
    return hashlib.sha256(pixels.tobytes() + labels.astype("<i8").tobytes()).hexdigest()


def _open(
    name: str, images: int, seed: int, sha256: str | None, folder: Path, split: str
) -> Split:
    path = folder / f"{name}-{seed}-{images}-v{RENDERER}.npz"
    found = _cached(path)
    if found is None:
        found = render(name, images, seed)
        if sha256 is not None and digest(found) != sha256:
            log.warning(
                "mini/%s: the images rendered here differ from the project's; compare scores of "
                "this task among your own runs only",
                name,
            )
        _keep(path, found)
    part = SPLITS[split]
    pixels, labels = (torch.from_numpy(array[part]) for array in found)
    return Split(pixels, labels, fingerprint(pixels, labels, FORMAT))


def _cached(path: Path) -> Images | None:
    """What the cache holds, or None where it is missing or damaged."""
    try:
        with np.load(path) as file:
            found = file["pixels"], file["labels"]
            return found if digest(found) == str(file["sha256"]) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _keep(path: Path, found: Images) -> None:
    """Write the cache whole or not at all; without a place for it, go on without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=".npz")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, pixels=found[0], labels=found[1], sha256=np.array(digest(found)))
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        log.warning("the rendered images are not cached: '%s' (%s)", path.parent, error.strerror)


def _told(numbers: Any, what: str) -> Any:
    """The numbers, with a bar on a terminal."""
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    return track(numbers, description=what, transient=True, console=console, disable=hidden)
