"""What each suite needs, what of it is there, and the disk it takes."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from petlbench.commands.data.suites import Cell, Imageless, cells, of_user
from petlbench.config import options
from petlbench.data import pixels
from petlbench.data.readers import files
from petlbench.data.readers.layout import Folder, merged
from petlbench.data.readers.lists import Listed
from petlbench.errors import UserError
from petlbench.run import build

Report = dict[str, Any]
Sizes = dict[Path, int]  # bytes of files


def listing(suite: str | None, root: Path | None, size: int) -> Report:
    """A report on the tasks of one suite, or of all that need no folder of the user's own."""
    suites = [_suite(suite, root, size)] if suite else []
    for name in [] if suite else every_suite():
        with suppress(Imageless):
            suites.append(_suite(name, root, size))
    return {"command": "list", "ok": True, "size": size, "suites": suites}


def _suite(name: str, root: Path | None, size: int) -> Report:
    """A suite; files and lists that several of its tasks share count once in its sums."""
    found = list(cells(name, root, size))
    needed = merged(folder for cell in found for folder in cell.folders)
    files_there: Sizes = {}
    grouped = groupby(found, lambda cell: cell.name.partition(" ")[0])
    tasks = [_task(key, list(draws), size, files_there) for key, draws in grouped]
    return {
        "suite": name,
        "tasks": tasks,
        "bytes": sum(files_there.values()),
        "decoded_bytes": _images(needed) * 3 * size**2,
    }


def every_suite() -> list[str]:
    """Suites, and tasks that belong to none; parts of a suite are left out."""
    names = options.names("dataset")
    return [name for name in names if "/" not in name and not of_user(name)]


def _task(name: str, draws: list[Cell], size: int, files_there: Sizes) -> Report:
    """One task with all its draws. missing: why it cannot be opened, or null."""
    needed = merged(folder for cell in draws for folder in cell.folders)
    report: Report = {
        "task": name,
        "missing": None,
        "folders": [folder.name for folder in needed],
        "images": _images(needed),
        "bytes": 0,
        "decoded_bytes": _images(needed) * 3 * size**2,
        "decoded_there": 0,
    }
    try:
        lists = _lists(draws)
        sizes = {path: path.stat().st_size for listed in lists for path in _paths(listed)}
        kept = _kept(draws[0], lists)
    except UserError as error:
        return report | {"missing": str(error)}
    except OSError as error:
        return report | {"missing": f"'{error.filename}': {error.strerror}"}
    files_there |= sizes
    if not lists:
        return report  # rendered, not read
    return report | {
        "images": sum(map(len, lists)),
        "bytes": sum(sizes.values()),
        "decoded_bytes": sum(one.size for one in kept),
        "decoded_there": sum(one.size for one in kept if one.is_there),
    }


def _images(needed: Iterable[Folder]) -> int:
    return sum(wanted.images for folder in needed for wanted in folder.lists.values())


def _lists(draws: Iterable[Cell]) -> list[Listed]:
    """Every list of a task once."""
    found: list[Listed] = []
    for cell in draws:
        task = cell.task()
        read = [task.listed[split]() for split in task.listed]
        found += [listed for listed in read if len(listed) and listed not in found]
    return found


def _kept(cell: Cell, lists: Iterable[Listed]) -> list[pixels.Kept]:
    where = files.cache_folder(cell.values["cache"], cell.values["suite"])
    view = build.view(cell.config.input)
    return [pixels.place(listed, view=view, cache=where) for listed in lists]


def _paths(listed: Listed) -> list[Path]:
    return [listed.root / path for path in listed.paths]
