"""Folders of a suite from lists and folders of images, by hard links if the disk allows them."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path, PurePosixPath

from petlbench.data.readers import lists
from petlbench.data.readers.layout import RequiredFolder, RequiredList
from petlbench.data.readers.lists import DefectiveList
from petlbench.errors import UserError
from petlbench.progress import progress
from petlbench.system import sha256_of, threads

ABOVE = ("", "few-shot_split")  # folders above the few-shot lists; the second is heekhero/DTL's


def plan(
    required: Sequence[RequiredFolder], lists_root: Path, images_root: Path, target: Path
) -> Iterator[tuple[RequiredFolder, int, partial[dict[str, str]]]]:
    """Each folder with lists below `lists_root`, its size in bytes, and a function that fills it.

    target: the folder of the suite; on the disk of the images, hard links take no space.
    """
    existing = next(above for above in (target, *target.absolute().parents) if above.exists())
    # hard links cannot cross file systems
    links = existing.stat().st_dev == images_root.stat().st_dev
    for folder in required:
        home = _home(folder, lists_root, is_only=len(required) == 1)
        if home is not None:
            sources = _sources(folder, home, images_root)
            sizes = (path.stat().st_size for path in sources.values() if path.is_file())
            yield folder, 0 if links else sum(sizes), partial(_fill, sources)


def _home(folder: RequiredFolder, lists_root: Path, is_only: bool) -> Path | None:
    """The folder that holds the lists of a data set; for a single one, also the root itself."""
    places = [lists_root / above / name for above, name in product(ABOVE, folder.names)]
    for place in [*places, lists_root] if is_only else places:
        if any((place / name).is_file() for name in folder.lists):
            return place
    return None


def _sources(folder: RequiredFolder, home: Path, images_root: Path) -> dict[str, Path]:
    """The source of each file of a folder, by its path below the folder."""
    sources: dict[str, Path] = {}
    for name, required in folder.lists.items():
        if (home / name).is_file():  # the check of the filled folder reports a missing list
            sources[name] = home / name
            sources |= _image_sources(home / name, folder, required, images_root)
    return sources


def _image_sources(
    file: Path, folder: RequiredFolder, required: RequiredList, images_root: Path
) -> dict[str, Path]:
    """The images of a list, all below the folder that holds the first one found."""
    try:
        paths = lists.read(file, classes=folder.classes).paths
    except DefectiveList as error:
        paths = error.images.paths  # the check of the filled folder reports the defects
    for path in paths:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise UserError(f"'{file}' lists '{path}', which leaves its folder")
    bases = [images_root / name / below for name, below in _candidates(folder, required)]
    for path, base, cut in product(paths, bases, (0, 1)):  # with its first folder, or without
        if (base / _without(path, cut)).is_file():
            below = PurePosixPath(required.below)
            return {str(below / each): base / _without(each, cut) for each in paths}
    return {}


def _candidates(folder: RequiredFolder, required: RequiredList) -> Iterator[tuple[str, str]]:
    """Folders that may hold the images of a list, the likeliest first."""
    last = PurePosixPath(required.below).name  # train/ and val/ of ImageNet as it is unpacked
    return product(("", *folder.names), dict.fromkeys((required.below, last, "images", "")))


def _without(path: str, folders: int) -> PurePosixPath:
    """A path without its first folders."""
    return PurePosixPath(*PurePosixPath(path).parts[folders:])


def _fill(sources: Mapping[str, Path], target: Path) -> dict[str, str]:
    """Link or copy each file below `target`; the SHA-256 of each by its path."""

    def place(name: str) -> tuple[str, str] | None:
        source = sources[name].resolve()
        if not source.is_file():
            return None  # the check of the filled folder reports it
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target / name)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, target / name)
        return name, sha256_of(target / name)

    with threads() as pool:
        placed = progress(pool.map(place, sources), target.name.strip("."), len(sources))
        return dict(pair for pair in placed if pair is not None)
