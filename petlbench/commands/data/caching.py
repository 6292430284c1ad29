"""`cache`: decodes the images of a suite into the pixel cache before the first run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petlbench.commands.data.suites import TaskDraw, task_draws
from petlbench.data import pixels
from petlbench.data.cached import CachedPixels
from petlbench.data.task import Task
from petlbench.errors import UserError
from petlbench.progress import say

Report = dict[str, Any]


@dataclass(frozen=True)
class SplitToOpen:
    """A split. cached: the files of its pixels; None if the pixel cache does not store them."""

    draw_name: str
    task: Task
    split: str
    cached: CachedPixels | None


def cache(suite: str, root: Path | None, size: int) -> Report:
    """Open every split of every task. Raises UserError if the disk is too small for all."""
    splits: dict[object, SplitToOpen] = {}  # a list that several splits share is opened once
    broken: list[Report] = []
    for draw in task_draws(suite, root, size):
        try:
            splits |= {item.cached or (draw.name, item.split): item for item in _splits(draw)}
        except UserError as error:
            broken.append({"task": draw.name, "state": "broken", "reason": str(error)})
    _require_space(suite, list(splits.values()))
    rows = [_open(item) for item in splits.values()]
    ok = not broken and all(row["state"] != "broken" for row in rows)
    return {"command": "cache", "suite": suite, "ok": ok, "splits": rows + broken}


def _splits(draw: TaskDraw) -> Iterator[SplitToOpen]:
    task = draw.task()
    if task.cached is None:
        for split in task.splits:
            yield SplitToOpen(draw.name, task, split, None)
        return
    for split, read in task.lists.items():
        images = read()
        if len(images):  # val_share=0 leaves no val
            yield SplitToOpen(draw.name, task, split, task.cached(images))


def _require_space(suite: str, splits: list[SplitToOpen]) -> None:
    """Print the disk space that is needed and free; raise UserError if it is too small."""
    missing = [item.cached for item in splits if item.cached and not item.cached.exists]
    if not missing:
        return
    # the lists of a suite share a folder of the cache
    folder = missing[0].pixels.parent
    needed, free = sum(cached.size for cached in missing), pixels.free_bytes(folder)
    say(
        f"{len(missing)} lists to decode, {needed / 1e9:.2f} GB; "
        f"{free / 1e9:.2f} GB free in '{folder}'"
    )
    pixels.require_space(needed, folder, f"decoding {suite}", pixels.ADVICE)


def _open(item: SplitToOpen) -> Report:
    """Open a split; sha256: of its pixels, as records hold it."""
    before = item.cached.version if item.cached else ()
    report: Report = {"task": item.draw_name, "split": item.split}
    try:
        split = item.task.open(item.split)
    except UserError as error:
        return report | {"state": "broken", "reason": str(error)}
    return report | {
        # damaged pixels are made again
        "state": "there" if before and item.cached and item.cached.version == before else "made",
        "images": len(split),
        "bytes": item.cached.size if item.cached else split.images.numel(),
        "sha256": split.fingerprint["sha256"],
    }
