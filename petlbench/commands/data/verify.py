"""`verify`: whether the data of a suite are what its tasks need; all defects of each task.

A defect makes a run impossible or its score wrong; a note is information on the data as published
(the training lists of VTAB-1K do not show every class).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from petlbench.commands.data import overlap, sums, unlisted
from petlbench.commands.data.examine import ImageFacts, examine
from petlbench.commands.data.figures import Facts, list_figures, list_notes
from petlbench.commands.data.suites import TaskDraw, task_draws
from petlbench.data.readers import numbering
from petlbench.data.readers.lists import DefectiveList, ImageList
from petlbench.data.task import Task
from petlbench.errors import UserError
from petlbench.progress import progress
from petlbench.system import sha256_of, threads

SIZE = 224  # pixels: no file is resized here, but a task asks for a size
Report = dict[str, Any]


def verify(
    suite: str, root: Path | None, allow_duplicates: bool, values: Sequence[str] = ()
) -> Report:
    """A report on every task of a suite.

    allow_duplicates: images that two splits share are a note instead of a defect. values:
    overrides of Hydra for all tasks. `broken` of a task are the defects of images that cannot be
    decoded.
    """
    # for all tasks: the draws of a task list the same files
    facts: Facts = {}
    with threads() as pool:
        tasks = [
            verify_task(draw, facts, pool, allow_duplicates)
            for draw in task_draws(suite, root, SIZE, values)
        ]
    return {
        "command": "verify",
        "suite": suite,
        "ok": not any(task["defects"] for task in tasks),
        "tasks": tasks,
    }


def verify_task(
    draw: TaskDraw, facts: Facts, pool: ThreadPoolExecutor, allow_duplicates: bool
) -> Report:
    """One task. facts: of the files that were examined before; extended here."""
    report: Report = {"task": draw.name, "splits": {}}
    report |= {"defects": [], "broken": [], "notes": [], "shared": []}
    try:
        task = draw.task()
    except UserError as error:
        return report | {"defects": [str(error)]}
    part = _from_lists(draw.name, task, facts, pool) if task.lists else unlisted.verify(task)
    # each fold is tested by a run that trains on the others
    part["shared"] = overlap.in_two_folds(_folds(draw), facts) or part["shared"]
    shared = part["shared"]
    report |= {
        "splits": part["splits"],
        "shared": shared,
        "broken": [*dict.fromkeys(part["broken"])],
    }
    defects = part["defects"] + ([] if allow_duplicates else shared)
    notes = part["notes"] + (shared if allow_duplicates else []) + task.remarks()
    # two lists may have the same defective file
    return report | {"defects": list(dict.fromkeys(defects)), "notes": notes}


def _folds(draw: TaskDraw) -> list[ImageList]:
    """The test images of each fold; empty without folds."""
    try:
        return [fold.task().lists["test"]() for fold in draw.folds]
    except UserError:  # a defect of all lists, which is in the report
        return []


def _from_lists(name: str, task: Task, facts: Facts, pool: ThreadPoolExecutor) -> Report:
    """The report on a task of image files, with what its splits share."""
    lists, defects = _read(task)
    _examine_files(name, lists.values(), facts, pool)
    splits: dict[str, Report] = {}
    notes: list[str] = []
    broken: list[str] = []
    for split, images in lists.items():
        splits[split] = list_figures(images, facts, task.classes)
        found = [(path, facts.get(path)) for path in images.files]
        defects += [fact for _, fact in found if isinstance(fact, str)]
        broken += [fact for path, fact in found if isinstance(fact, str) and path.is_file()]
        defects += _mismatches(images, facts)
        notes += list_notes(split, images, facts, task)
    if task.names is None:  # a user's own folder names its classes itself
        defects += numbering.conflicts(lists)
    return {
        "splits": splits,
        "defects": defects,
        "broken": broken,
        "notes": notes + overlap.wrong_sums(task, lists, facts),
        "shared": list(overlap.shared(task, lists, facts)),
    }


def _read(task: Task) -> tuple[dict[str, ImageList], list[str]]:
    """The readable part of each list, each list once, and all defects of the lists."""
    lists: dict[str, ImageList] = {}
    defects: list[str] = []
    for split, read in task.lists.items():
        try:
            images = read()
        except DefectiveList as error:
            defects += error.defects
            images = error.images
        except UserError as error:
            defects.append(str(error))
            continue
        if len(images) and images not in lists.values():
            lists[split] = images
    return lists, defects


def _examine_files(
    name: str, lists: Iterable[ImageList], facts: Facts, pool: ThreadPoolExecutor
) -> None:
    """Extend `facts` by the files of the lists that it does not hold yet."""
    new = {path: images for images in lists for path in images.files if path not in facts}
    examined = pool.map(_examine_file, new, new.values())
    facts |= zip(new, progress(examined, name, len(new)), strict=True)


def _examine_file(path: Path, images: ImageList) -> ImageFacts | str:
    # here, because only this message names the list
    if not path.is_file():
        return f"image '{path}', which '{images.file}' lists, is missing"
    try:
        return examine(path, images.decoding)
    except UserError as error:
        return str(error)


def _mismatches(images: ImageList, facts: Facts) -> Iterator[str]:
    """A sentence for each file that differs from the SHA256SUMS above it."""
    for folder, digests in sums.above(images.root):
        current = {
            path: known.sha256
            for path in images.files
            if isinstance(known := facts[path], ImageFacts)
        }
        if images.file.is_file():
            current[images.file] = sha256_of(images.file)
        for path, digest in current.items():
            below = os.path.relpath(path.absolute(), folder)
            # a file without a line in SHA256SUMS is no defect: the user may have added it
            if digests.get(below, digest) != digest:
                yield sums.mismatch(path)
