"""`list`: what each suite needs, what exists of it, and the disk space it takes."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from petlbench.commands.data.suites import NoImages, TaskDraw, all_suites, task_draws
from petlbench.data.cached import CachedPixels
from petlbench.data.readers.layout import RequiredFolder, merged
from petlbench.data.readers.lists import ImageList
from petlbench.data.task import Task
from petlbench.errors import UserError

Report = dict[str, Any]
Sizes = dict[Path, int]  # bytes of files
EXISTS, MISSING, NO_FILES = "there", "missing", "no files needed"


def listing(suite: str | None, root: Path | None, size: int) -> Report:
    """A report on one suite, or on all that need no folder of the user."""
    suites = [_suite(suite, root, size)] if suite is not None else []
    for name in [] if suite is not None else all_suites():
        with suppress(NoImages):  # dataset=probe
            suites.append(_suite(name, root, size))
    return {"command": "list", "ok": True, "size": size, "suites": suites}


def _suite(name: str, root: Path | None, size: int) -> Report:
    """A suite; files and lists that several of its tasks share count once in its sums."""
    draws = list(task_draws(name, root, size))
    folders = merged(folder for draw in draws for folder in draw.folders)
    files: Sizes = {}
    grouped = groupby(draws, lambda draw: draw.task_name)  # draws of a task are adjacent
    tasks = [_task(task_name, list(of_task), size, files) for task_name, of_task in grouped]
    decoded = _images(folders) * 3 * size**2  # bytes: RGB, uint8
    return {
        "suite": name,
        "tasks": tasks,
        "bytes": sum(files.values()),
        "decoded_bytes": decoded or sum(task["decoded_bytes"] for task in tasks),
    }


def _task(name: str, draws: list[TaskDraw], size: int, files: Sizes) -> Report:
    """One task with all its draws. missing: why it cannot be opened, or null."""
    folders = merged(folder for draw in draws for folder in draw.folders)
    report: Report = {
        "task": name,
        "state": MISSING,
        "missing": None,
        "folders": [folder.name for folder in folders],
        "images": _images(folders),
        "bytes": 0,
        "decoded_bytes": _images(folders) * 3 * size**2,
        "decoded_there": 0,
    }
    try:
        tasks = [draw.task() for draw in draws]
        lists = _lists(tasks)
        sizes = {path: path.stat().st_size for images in lists for path in images.files}
        cached = _cached(tasks[0], lists)
    except UserError as error:
        return report | {"missing": str(error)}
    except OSError as error:
        # a listed image does not exist
        return report | {"missing": f"'{error.filename}': {error.strerror}"}
    files |= sizes
    if not lists:
        return report | {"state": NO_FILES}
    return report | {
        "state": EXISTS,
        "images": sum(map(len, lists)),
        "bytes": sum(sizes.values()),
        "decoded_bytes": sum(pixels.size for pixels in cached),
        "decoded_there": sum(pixels.size for pixels in cached if pixels.exists),
    }


def _images(folders: Iterable[RequiredFolder]) -> int:
    return sum(required.images for folder in folders for required in folder.lists.values())


def _lists(tasks: Iterable[Task]) -> list[ImageList]:
    """Every list of a task's draws once."""
    lists: list[ImageList] = []
    for task in tasks:
        for read in task.lists.values():
            images = read()
            if len(images) and images not in lists:
                lists.append(images)
    return lists


def _cached(task: Task, lists: Iterable[ImageList]) -> list[CachedPixels]:
    return [task.cached(images) for images in lists] if task.cached else []
