"""Fine-grained few-shot data sets as NOAH lists them: k images a class, three draws of them.

`root/set/annotations/` (or `root/few-shot_split/set/annotations/`, as heekhero/DTL has it) holds
train_meta.list.num_shot_K.seed_D, val_meta.list and test_meta.list with a path and a label a line;
the images lie below `root/set/` or `root/set/images/`.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from petlbench.checks import whole
from petlbench.data.images import View
from petlbench.data.readers import files, lists
from petlbench.data.readers.layout import DRAWS, Folder, Wanted
from petlbench.data.readers.lists import Listed
from petlbench.data.task import Task

TRAIN, VAL, TEST = "train_meta.list.num_shot_{}.seed_{}", "val_meta.list", "test_meta.list"


def load(
    *,
    name: str,
    title: str,
    suite: str,
    group: str,
    classes: int,
    folders: list[str],
    shots: int,
    draw: int,
    unique: bool,
    val_images: int,
    test_images: int,
    root: str,
    cache: str,
    view: View,
) -> Task:
    """One data set with `shots` images a class.

    folders: names of its folder. draw: which of the lists that were drawn, 0 to 2. unique: take an
    image once that a list names twice (the lists of Pets with one shot name all twice).
    """
    whole("dataset.draw", draw, low=0, high=DRAWS - 1, of="the lists that NOAH drew")
    base = Path(root).expanduser()
    places = [f"{above}{folder}" for above in ("", "few-shot_split/") for folder in folders]
    notes = files.folder(
        base,
        [f"{place}/annotations" for place in places],
        f"fewshot/{name}",
        "put the few-shot lists and images there",
    )
    images = [base / folder / below for folder in folders for below in ("images", ".")]

    def listed(file: str, **sizes: int) -> Listed:
        return lists.read(notes / file, classes=classes, roots=images, **sizes)

    def train() -> Listed:
        found = listed(TRAIN.format(shots, draw), distinct=classes * shots)
        return found.once() if unique else found

    return files.task(
        {
            "train": train,
            "val": partial(listed, VAL, count=val_images),
            "trainval": train,  # the field never trains on its val list
            "test": partial(listed, TEST, count=test_images),
        },
        view=view,
        cache=cache,
        name=name,
        title=title,
        suite=suite,
        group=group,
        classes=classes,
        tests=("test",),
        parts={},
    )


def layout(values: Mapping[str, Any]) -> tuple[Folder, ...]:
    """The folder that a task needs, with the lists of all draws."""
    classes, shots = values["classes"], values["shots"]
    counts = {TRAIN.format(shots, draw): classes * shots for draw in range(DRAWS)}
    counts |= {VAL: values["val_images"], TEST: values["test_images"]}
    wanted = {f"annotations/{file}": Wanted(count, "images") for file, count in counts.items()}
    return (Folder(tuple(values["folders"]), classes, wanted),)
