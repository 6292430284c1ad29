"""The pixel cache: images decoded once into a memory-mapped file that all runs share.

The name of a file is a hash of its sources: paths, contents and labels of the images, and the
transform. Of several processes that need the same file, one writes it and the others wait. A file
is compared with its fingerprint once in each process, and decoded again if it is damaged.
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petlbench.checks import choice
from petlbench.data import digests
from petlbench.data.cached import CachedPixels
from petlbench.data.images import PUBLISHED, BadImage, View
from petlbench.data.readers.lists import ImageList
from petlbench.data.task import Fingerprint, Split, fingerprint
from petlbench.errors import UserError
from petlbench.progress import progress
from petlbench.system import (
    file_lock,
    remove_abandoned,
    replacing,
    threads,
    write_atomically,
)
from petlbench.units import MIB

log = logging.getLogger("petlbench")
SPARE = 256 * MIB  # bytes that the cache leaves free on its disk
ADVICE = "set PETLBENCH_CACHE to a folder that you can write to, with free space"
NAME = 40  # bytes of a folder's or list's name in the name of a file
CHUNK = 100  # images that are decoded in parallel before they are written
ON_BAD_IMAGE = ("error", "skip")  # what happens to an image that cannot be decoded


# Version and fingerprint of each file whose content this process has read and found right.
_VERIFIED: dict[Path, tuple[tuple[int, ...], Fingerprint]] = {}


def open_list(images: ImageList, *, view: View, cache: Path, on_bad_image: str = "error") -> Split:
    """The images of a list as (N, 3, size, size), decoded unless the cache has them.

    on_bad_image: one of ON_BAD_IMAGE; `skip` leaves out the images that cannot be decoded, whose
    paths the fingerprint then lists as `skipped`. Raises UserError for an image that is missing
    or, with `error`, cannot be decoded, and for a full disk; then no file is left behind.
    """
    choice("dataset.on_bad_image", on_bad_image, ON_BAD_IMAGE)
    try:
        bad = _known_bad(images, view, cache) if on_bad_image == "skip" else []
        split = _opened(images.without(set(bad)), view, cache)
    except BadImage as error:
        if on_bad_image == "error":
            raise UserError(
                f"{error}; restore it, or leave such images out with dataset.on_bad_image=skip"
            ) from error
        bad = _find_bad(images, view, cache)
        split = _opened(images.without(set(bad)), view, cache)
    if not bad:
        return split
    return replace(split, fingerprint={**split.fingerprint, "skipped": bad})


def _opened(images: ImageList, view: View, cache: Path) -> Split:
    cached = locate(images, view=view, cache=cache)
    remove_abandoned(cached.pixels.parent)
    # before the lock: a complete cache may lie on a read-only disk
    split = _verified(images, cached)
    if split is None:
        with file_lock(cached.pixels.with_suffix(".lock"), "cache decoded images", ADVICE):
            split = _verified(images, cached) or _decoded(images, view, cached)
    return split


def _verified(images: ImageList, cached: CachedPixels) -> Split | None:
    """The pixels in the cache; None if they are missing, or differ from their fingerprint."""
    if not cached.exists:
        return None
    version, split = cached.version, _split(images, cached)
    if _VERIFIED.get(cached.pixels, ((), {}))[0] != version:
        try:
            stored = json.loads(cached.about.read_text())
        except (OSError, ValueError, RecursionError):
            stored = None
        about = _fingerprint(images, split)
        if about != stored:
            return None
        _VERIFIED[cached.pixels] = version, about
    return replace(split, fingerprint=_VERIFIED[cached.pixels][1])


def _decoded(images: ImageList, view: View, cached: CachedPixels) -> Split:
    if cached.version:
        log.warning("the decoded images in '%s' are damaged; decoding again", cached.pixels)
    _decode(images, view, cached)
    split = _split(images, cached)
    about = _fingerprint(images, split)
    write_atomically(cached.about, json.dumps(about).encode())
    _VERIFIED[cached.pixels] = cached.version, about
    return replace(split, fingerprint=about)


def _split(images: ImageList, cached: CachedPixels) -> Split:
    """The memory-mapped pixels (N, 3, size, size) uint8, without a fingerprint."""
    import torch  # takes seconds, and who only locates pixels needs none

    # not shared: opened read-only, and a write changes the memory of this process only
    mapped = torch.from_file(str(cached.pixels), shared=False, size=cached.size, dtype=torch.uint8)
    labels = torch.tensor(images.labels)
    return Split(mapped.view(cached.shape), labels, {}, images.original, images.paths)


def _fingerprint(images: ImageList, split: Split) -> Fingerprint:
    about = fingerprint(split.images, split.labels, _formats(images))
    # what the published loaders do is not said
    return about if images.decoding == PUBLISHED else about | asdict(images.decoding)


def _known_bad(images: ImageList, view: View, cache: Path) -> list[str]:
    """The bad images of a list as an earlier start found them; empty if none did."""
    try:
        bad = json.loads(_bad_file(images, view, cache).read_text())
    except (OSError, ValueError):
        return []  # a damaged file is made anew where an image turns out to be bad
    paths = set(images.paths)
    return bad if isinstance(bad, list) and paths.issuperset(bad) else []


def _find_bad(images: ImageList, view: View, cache: Path) -> list[str]:
    """The paths of the images that cannot be decoded, which are stored beside the pixels.

    Raises UserError if no image is left.
    """

    def is_bad(index: int) -> bool:
        try:
            images.original(index)
        except BadImage:
            return True
        return False

    with threads() as pool:
        flags = list(pool.map(is_bad, range(len(images))))
    bad = [path for path, flag in zip(images.paths, flags, strict=True) if flag]
    if len(images.without(set(bad))) == 0:
        raise UserError(f"no image of '{images.file}' can be decoded; is the archive complete?")
    log.warning(
        "%d of %d images of '%s' cannot be decoded and are left out, for example '%s'",
        len(bad),
        len(images),
        images.file,
        bad[0],
    )
    write_atomically(_bad_file(images, view, cache), json.dumps(bad).encode())
    return bad


def _bad_file(images: ImageList, view: View, cache: Path) -> Path:
    return cache / f"{_key(images, view, cache)}.skipped.json"


def locate(images: ImageList, *, view: View, cache: Path) -> CachedPixels:
    """The files for the pixels of a list. Raises UserError if one of its images is missing."""
    key = _key(images, view, cache)  # may have dots, so no with_suffix
    shape = (len(images), 3, view.size, view.size)
    return CachedPixels(cache / f"{key}.u8", cache / f"{key}.json", shape)


def require_space(size: int, folder: Path, purpose: str, advice: str) -> None:
    """Raise UserError if the disk of a folder has no space for `size` bytes."""
    free = free_bytes(folder)
    if size + SPARE > free:
        raise UserError(
            f"{purpose} takes {size / 1e9:.2f} GB and '{folder}' has {free / 1e9:.2f} GB left; "
            f"free some space, or {advice}"
        )


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    existing = next(above for above in (folder, *folder.absolute().parents) if above.exists())
    return shutil.disk_usage(existing).free


def _key(images: ImageList, view: View, cache: Path) -> str:
    # the repr of view and decoding: a further field of them gives every file another name
    sources = f"{view} {images.decoding} {digests.of_list(images, cache)}"
    digest = hashlib.sha256(sources.encode()).hexdigest()[:16]
    return f"{_short(images.root.name)}-{_short(images.file.stem)}-{digest}"


def _short(name: str) -> str:
    """A name of any length as part of another, which a file system limits to 255 bytes."""
    return os.fsencode(name)[:NAME].decode(errors="ignore")


def _decode(images: ImageList, view: View, cached: CachedPixels) -> None:
    def pixels(index: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(view.of(images.original(index)).transpose(2, 0, 1))

    require_space(cached.size, cached.pixels.parent, f"decoding '{images.file}'", ADVICE)
    try:
        # threads and not processes: PIL releases the interpreter lock while it decodes
        with replacing(cached.pixels) as file, threads() as pool:
            chunks = (
                range(len(images))[start : start + CHUNK] for start in range(0, len(images), CHUNK)
            )
            decoded = chain.from_iterable(pool.map(pixels, chunk) for chunk in chunks)
            for image in progress(decoded, f"decoding {images.file}", len(images)):
                file.write(image.data)
            file.flush()
            os.fsync(file.fileno())  # before the rename, which may otherwise reach the disk first
    except OSError as error:
        raise UserError(f"'{cached.pixels}' cannot be written: {error.strerror}") from error


def _formats(images: ImageList) -> str:
    """Suffixes of the files, for example `jpg` or `jpg, png`."""
    return ", ".join(sorted({Path(path).suffix.lower().lstrip(".") for path in images.paths}))
