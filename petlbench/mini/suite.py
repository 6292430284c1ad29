"""The embedded suite: tasks rendered from a seed on first use, and cached."""

import hashlib
import logging
from collections.abc import Callable
from functools import cache as once
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from petlbench.checks import choice, whole
from petlbench.data.images import View
from petlbench.data.task import Split, Task, fingerprint
from petlbench.errors import UserError
from petlbench.mini import tasks
from petlbench.mini.render import SIZE, Draw
from petlbench.progress import progress
from petlbench.system import remove_abandoned, replacing, user_path

TRAIN, VAL = 800, 200  # as in VTAB-1K
MAX_IMAGES = 1_000_000  # 6.9 GB of pixels, which are rendered in memory
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
    view: View,
) -> Task:
    """A task: 800 training images, 200 validation images, the rest of `images` for the test.

    sha256: of all pixels and labels as published, part of the file name in the cache; a warning
    is logged if this machine renders others. cache: folder of the rendered images.
    """
    choice("dataset.name", name, task_names())
    whole("dataset.images", images, low=TRAIN + VAL + 1, high=MAX_IMAGES)
    whole("dataset.seed", seed, low=0)
    if not view.is_plain:
        raise UserError(
            f"mini/{name} is rendered square and is not cropped; leave out "
            f"input.resize={view.resize} and input.aspect={view.aspect}"
        )
    folder = user_path("dataset.cache (PETLBENCH_CACHE)", cache) / "mini"
    # once: the splits are slices of the same arrays
    rendered = once(partial(_rendered, name, images, seed, sha256, folder))
    opened = partial(_split, rendered)
    size = partial(_size, images)
    return Task(name, title, suite, group, classes, ("test",), opened, size=size)


@once
def task_names() -> list[str]:
    """The tasks: modules of petlbench/mini/tasks that render an image."""
    names = [module.name for module in iter_modules(tasks.__path__)]
    # modules such as toys and solids only help others
    return [name for name in names if hasattr(_module(name), "image")]


def _module(name: str) -> ModuleType:
    return import_module(f"{tasks.__name__}.{name}")


def render(name: str, images: int, seed: int) -> Images:
    """The first `images` images of a task and their labels."""
    image: Callable[[Draw, int], tuple[NDArray[np.uint8], int]]
    image = _module(name).image
    numbers = progress(range(images), f"rendering {name}", images)
    pairs = [image(Draw(name, seed, number), number) for number in numbers]
    pixels = np.stack([pixels for pixels, _ in pairs]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels), np.array([label for _, label in pairs], dtype=np.int64)


def digest(images: Images) -> str:
    """SHA-256 of pixels and labels."""
    pixels, labels = images
    # "<i8": the byte order of the machine does not count
    return hashlib.sha256(pixels.tobytes() + labels.astype("<i8").tobytes()).hexdigest()


def _split(rendered: Callable[[], Images], split: str) -> Split:
    import torch  # takes seconds, and a listing opens no split

    pixels, labels = (torch.from_numpy(array[SPLITS[split]]) for array in rendered())
    return Split(pixels, labels, fingerprint(pixels, labels, FORMAT))


def _size(images: int, split: str) -> int:
    return len(range(images)[SPLITS[split]])


def _rendered(name: str, images: int, seed: int, sha256: str | None, folder: Path) -> Images:
    # with the hash, so that a version that renders other images does not read these
    path = folder / f"{name}-{seed}-{images}-{(sha256 or 'unknown')[:12]}.npz"
    remove_abandoned(folder)
    rendered = _read(path)
    if rendered is None:
        rendered = render(name, images, seed)
        _write(path, rendered)
    if sha256 is not None and digest(rendered) != sha256:
        log.warning(
            "mini/%s (%d images of seed %d) differs from the published images; compare scores of "
            "this task among your own runs only",
            name,
            images,
            seed,
        )
    return rendered


def _read(path: Path) -> Images | None:
    """The images in the cache, or None if the file is missing or damaged."""
    try:
        with np.load(path) as file:
            images = file["pixels"], file["labels"]
            return images if digest(images) == str(file["sha256"]) else None
    except Exception:  # a damaged archive raises anything, even tokenize.TokenError
        return None


def _write(path: Path, images: Images) -> None:
    """Write the cache atomically; log a warning if it cannot be written."""
    pixels, labels = images
    try:
        with replacing(path) as file:
            np.savez(file, pixels=pixels, labels=labels, sha256=np.array(digest(images)))
    except OSError as error:
        log.warning("the rendered images are not cached: '%s' (%s)", path.parent, error.strerror)
