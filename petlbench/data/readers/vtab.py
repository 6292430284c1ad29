"""VTAB-1K as its archives circulate: four lists and a folder of images for each task.

`root/name/` holds train800.txt, val200.txt, train800val200.txt and test.txt, with a path relative
to that folder and a label on each line (ZhangYuanhan-AI/NOAH, data/vtab-source).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from petlbench.data.images import View
from petlbench.data.readers import files, lists
from petlbench.data.readers.layout import RequiredFolder, RequiredList
from petlbench.data.readers.lists import ImageList
from petlbench.data.task import Task
from petlbench.system import user_path

LISTS = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}
# of every task; the test lists differ (conf/dataset/vtab)
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
    on_bad_image: str = "error",  # a yaml of another package may lack it
) -> Task:
    """One task. aliases: other names of its folder. Raises UserError if data are missing."""
    folder = files.folder(
        user_path("dataset.root", root),
        # published scripts differ, e.g. cifar, cifar100 and cifar_100
        [name, *aliases],
        f"vtab/{name}",
        "put the VTAB-1K archive there",
    )
    counts = COUNTS | {"test": test_images}

    def read(split: str) -> ImageList:
        return lists.read(folder / f"{LISTS[split]}.txt", classes=classes, count=counts[split])

    return files.task(
        # trainval is a list of its own, with copies of the images of train and val
        {split: partial(read, split) for split in LISTS},
        view=view,
        cache=cache,
        on_bad_image=on_bad_image,
        name=name,
        title=title,
        suite=suite,
        group=group,
        classes=classes,
        tests=("test",),
    )


def layout(values: Mapping[str, Any]) -> tuple[RequiredFolder, ...]:
    """The folder that a task needs."""
    counts = COUNTS | {"test": values["test_images"]}
    required = {f"{LISTS[split]}.txt": RequiredList(count, "") for split, count in counts.items()}
    names = (values["name"], *values["aliases"])
    return (RequiredFolder(names, values["classes"], required),)
