"""Fine-grained few-shot data sets with NOAH's lists: k images a class, three draws of them.

`root/set/annotations/` (or `root/few-shot_split/set/annotations/`, as in heekhero/DTL) holds
train_meta.list.num_shot_K.seed_D, val_meta.list and test_meta.list with a path and a label on
each line; the images lie below `root/set/` or `root/set/images/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from petlbench.checks import whole
from petlbench.data.images import View
from petlbench.data.readers import files, lists
from petlbench.data.readers.layout import DRAWS, RequiredFolder, RequiredList
from petlbench.data.readers.lists import ImageList
from petlbench.data.task import Task
from petlbench.system import user_path

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
    on_bad_image: str = "error",  # a yaml of another package may lack it
) -> Task:
    """One data set with `shots` images a class.

    folders: names of its folder. draw: number of the training list, 0 to 2. unique: use an image
    once if a list names it twice (the lists of Pets with one shot name all images twice). Raises
    UserError if data are missing.
    """
    whole("dataset.draw", draw, low=0, high=DRAWS - 1, of="the lists that NOAH drew")
    base = user_path("dataset.root", root)
    # NOAH's loader puts images/ before a path (not for Cars), DTL's does not
    roots = [base / folder / below for folder in folders for below in ("images", ".")]
    source = _Lists(_annotations(base, folders, name), roots, classes)
    train = partial(source.train, shots, draw, unique)
    return files.task(
        {
            "train": train,
            "val": partial(source.read, VAL, count=val_images),
            "trainval": train,  # the published scripts never train on the val list
            "test": partial(source.read, TEST, count=test_images),
        },
        view=view,
        cache=cache,
        on_bad_image=on_bad_image,
        name=name,
        title=title,
        suite=suite,
        group=group,
        classes=classes,
        tests=("test",),
        parts={},  # one list has both roles, so a search holds out a part of it
    )


@dataclass(frozen=True)
class _Lists:
    """The lists of a data set. roots: where their paths may start from."""

    folder: Path
    roots: Sequence[Path]
    classes: int

    def read(self, file: str, **counts: int) -> ImageList:
        return lists.read(self.folder / file, classes=self.classes, roots=self.roots, **counts)

    def train(self, shots: int, draw: int, unique: bool) -> ImageList:
        # not `count`: a list of Pets has twice as many lines as images
        images = self.read(TRAIN.format(shots, draw), distinct=self.classes * shots)
        return images.without_repeats() if unique else images


def _annotations(base: Path, folders: Sequence[str], name: str) -> Path:
    """The folder of the lists, in NOAH's layout or in DTL's."""
    places = [f"{above}{folder}" for above in ("", "few-shot_split/") for folder in folders]
    return files.folder(
        base,
        [f"{place}/annotations" for place in places],
        f"fewshot/{name}",
        "put the few-shot lists and images there",
    )


def layout(values: Mapping[str, Any]) -> tuple[RequiredFolder, ...]:
    """The folder that a task needs, with the lists of all draws."""
    classes, shots = values["classes"], values["shots"]
    counts = {TRAIN.format(shots, draw): classes * shots for draw in range(DRAWS)}
    counts |= {VAL: values["val_images"], TEST: values["test_images"]}
    # NOAH's layout; `load` also reads DTL's
    required = {f"annotations/{file}": RequiredList(n, "images") for file, n in counts.items()}
    return (RequiredFolder(tuple(values["folders"]), classes, required),)
