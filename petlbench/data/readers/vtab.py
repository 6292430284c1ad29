"""VTAB-1K as the archives that circulate have it: four lists and a folder of images for each task.

`root/name/` holds train800.txt, val200.txt, train800val200.txt and test.txt, with a path relative
to that folder and a label a line (ZhangYuanhan-AI/NOAH, data/vtab-source).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from petlbench.data.images import View
from petlbench.data.readers import files, lists
from petlbench.data.readers.layout import Folder, Wanted
from petlbench.data.readers.lists import Listed
from petlbench.data.task import Task

LISTS = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}
COUNTS = {"train": 800, "val": 200, "trainval": 1000}


def load(
    *,
    name: str,
    title: str,
    suite: str,
    group: str,
    classes: int,
    test_images: int,
    aliases: list[str],
    root: str,
    cache: str,
    view: View,
) -> Task:
    """One task. aliases: other names of its folder. Raises UserError where data are missing."""
    folder = files.folder(
        Path(root).expanduser(), [name, *aliases], f"vtab/{name}", "put the VTAB-1K archive there"
    )
    counts = COUNTS | {"test": test_images}

    def listed(split: str) -> Listed:
        return lists.read(folder / f"{LISTS[split]}.txt", classes=classes, count=counts[split])

    return files.task(
        {split: partial(listed, split) for split in LISTS},
        view=view,
        cache=cache,
        name=name,
        title=title,
        suite=suite,
        group=group,
        classes=classes,
        tests=("test",),
    )


def layout(values: Mapping[str, Any]) -> tuple[Folder, ...]:
    """The folder that a task needs."""
    counts = COUNTS | {"test": values["test_images"]}
    wanted = {f"{LISTS[split]}.txt": Wanted(count, "") for split, count in counts.items()}
    return (Folder((values["name"], *values["aliases"]), values["classes"], wanted),)
