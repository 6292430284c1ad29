"""Folders of a suite from given lists and folders of images, by links where the disk can."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path, PurePosixPath

from petlbench.commands.data import sums
from petlbench.data.readers import lists
from petlbench.data.readers.layout import Folder, Wanted
from petlbench.data.readers.lists import Flawed
from petlbench.errors import UserError
from petlbench.progress import progress
from petlbench.system import threads

ABOVE = ("", "few-shot_split")  # where heekhero/DTL has its few-shot lists


def plan(
    needed: Sequence[Folder], given: Path, images: Path, target: Path
) -> Iterator[tuple[Folder, int, partial[dict[str, str]]]]:
    """Each folder that has lists in `given`, its bytes, and what lays it out in a given folder.

    target: where the folders will be; on the disk of the images they take no room.
    """
    for place in (given, images):
        if not place.is_dir():
            raise UserError(f"no folder '{place}'")
    there = next(above for above in (target, *target.absolute().parents) if above.exists())
    links = there.stat().st_dev == images.stat().st_dev
    for folder in needed:
        home = _home(folder, given, is_only=len(needed) == 1)
        if home is not None:
            sources = _sources(folder, home, images)
            sizes = (path.stat().st_size for path in sources.values() if path.is_file())
            yield folder, 0 if links else sum(sizes), partial(_lay_out, sources)


def _home(folder: Folder, given: Path, is_only: bool) -> Path | None:
    """The folder that the lists of a data set lie in: for a single one, `given` itself will do."""
    places = [given / above / name for above, name in product(ABOVE, folder.names)]
    for place in [*places, given] if is_only else places:
        if any((place / name).is_file() for name in folder.lists):
            return place
    return None


def _sources(folder: Folder, home: Path, images: Path) -> dict[str, Path]:
    """Where each file of a folder comes from, by its path below it."""
    found: dict[str, Path] = {}
    for name, wanted in folder.lists.items():
        if (home / name).is_file():  # one that is missing is told when the folder is checked
            found[name] = home / name
            found |= _images(home / name, folder, wanted, images)
    return found


def _images(file: Path, folder: Folder, wanted: Wanted, images: Path) -> dict[str, Path]:
    """The images of a list: all lie where the first one that is found does."""
    try:
        paths = lists.read(file, classes=folder.classes).paths
    except Flawed as error:
        paths = error.listed.paths  # its flaws are told when the folder is checked
    for path in paths:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise UserError(f"'{file}' lists '{path}', which leaves its folder")
    bases = [images / name / below for name, below in _below(folder, wanted)]
    for path, base, cut in product(paths, bases, (0, 1)):  # with its first folder, or without
        if (base / _without(path, cut)).is_file():
            below = PurePosixPath(wanted.below)
            return {str(below / each): base / _without(each, cut) for each in paths}
    return {}


def _below(folder: Folder, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Places where the images of a list may lie: nearest first."""
    last = PurePosixPath(wanted.below).name  # ImageNet's train and val stand alone elsewhere
    return product(("", *folder.names), dict.fromkeys((wanted.below, last, "images", "")))


def _without(path: str, folders: int) -> PurePosixPath:
    """A path without its first folders."""
    return PurePosixPath(*PurePosixPath(path).parts[folders:])


def _lay_out(sources: Mapping[str, Path], target: Path) -> dict[str, str]:
    """Link or copy each file below `target`; sha256 of each by its path."""

    def placed(name: str) -> tuple[str, str] | None:
        source = sources[name].resolve()
        if not source.is_file():
            return None  # told when the folder is checked
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target / name)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, target / name)
        return name, sums.of(target / name)

    with threads() as pool:
        made = progress(pool.map(placed, sources), target.name.strip("."), len(sources))
        return dict(pair for pair in made if pair is not None)
