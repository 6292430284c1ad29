"""Decodes the images of a suite into the store that all runs share, before the first run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petlbench.commands.data.suites import Cell, cells
from petlbench.data import pixels
from petlbench.data.readers import files
from petlbench.data.task import Task
from petlbench.errors import UserError
from petlbench.progress import say
from petlbench.run import build

Report = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """A split to open. kept: where its pixels belong; None for a task without files."""

    cell: Cell
    task: Task
    split: str
    kept: pixels.Kept | None


def cache(suite: str, root: Path | None, size: int) -> Report:
    """Open every split of every task. Raises UserError where the disk is too small for all."""
    wanted: dict[object, Wanted] = {}
    broken: list[Report] = []
    for cell in cells(suite, root, size):
        try:
            wanted |= {item.kept or (cell.name, item.split): item for item in _splits(cell)}
        except UserError as error:
            broken.append({"task": cell.name, "state": "broken", "reason": str(error)})
    _room(suite, list(wanted.values()))
    made = [_open(item) for item in wanted.values()]
    ok = not broken and all(row["state"] != "broken" for row in made)
    return {"command": "cache", "suite": suite, "ok": ok, "splits": made + broken}


def _splits(cell: Cell) -> Iterator[Wanted]:
    task = cell.task()
    if not task.listed:
        for split in ("trainval", *task.tests):
            yield Wanted(cell, task, split, None)
    where = files.cache_folder(cell.values["cache"], cell.values["suite"])
    for split, read in task.listed.items():
        listed = read()
        if len(listed):
            kept = pixels.place(listed, view=build.view(cell.config.input), cache=where)
            yield Wanted(cell, task, split, kept)


def _room(suite: str, wanted: list[Wanted]) -> None:
    """Say what the disk needs and has; refuse where that is too little."""
    todo = [item.kept for item in wanted if item.kept and not item.kept.is_there]
    if not todo:
        return
    folder = todo[0].pixels.parent
    needed, free = sum(kept.size for kept in todo), pixels.free_bytes(folder)
    say(
        f"{len(todo)} lists to decode, {needed / 1e9:.2f} GB; "
        f"{free / 1e9:.2f} GB free in '{folder}'"
    )
    pixels.room(needed, folder, f"decoding {suite}", pixels.ELSEWHERE)


def _open(item: Wanted) -> Report:
    """One split, decoded unless it was; sha256: its fingerprint, as records hold it."""
    report: Report = {"task": item.cell.name, "split": item.split, "state": "made"}
    if item.kept and item.kept.is_there:
        report["state"] = "there"
    try:
        opened = item.task.open(item.split)
    except UserError as error:
        return report | {"state": "broken", "reason": str(error)}
    return report | {
        "images": len(opened),
        "bytes": item.kept.size if item.kept else opened.images.numel(),
        "sha256": opened.fingerprint["sha256"],
    }
