"""Domain generalisation as NOAH lists it: 16 images a class of ImageNet, tested on five sets.

`root/imagenet/annotations/train_meta.list.num_shot_16.seed_D` lists the training images below
`root/imagenet/images/train/`; `root/SET/annotations/val_meta.list` the images of each test set.
All labels are ImageNet's: sets of 200 classes are scored among all 1000, as the field does.
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
from petlbench.errors import UserError

TRAIN, VAL = "train_meta.list.num_shot_{}.seed_{}", "val_meta.list"
SOURCE = "imagenet"
ADVICE = "put the lists and images for domain generalisation there"


def load(
    *,
    name: str,
    title: str,
    suite: str,
    group: str,
    classes: int,
    shots: int,
    draw: int,
    test_images: Mapping[str, int],
    folders: Mapping[str, list[str]],
    root: str,
    cache: str,
    view: View,
) -> Task:
    """A training set and its test sets.

    draw: which of the lists that were drawn, 0 to 2. test_images: of each test set, by its name.
    folders: names of the folder of each set.
    """
    whole("dataset.draw", draw, low=0, high=DRAWS - 1, of="the lists that NOAH drew")
    base = Path(root).expanduser()

    def listed(of: str, file: str, below: str, count: int) -> Listed:
        folder = files.folder(base, folders[of], f"{suite}/{name}", ADVICE)
        roots = [folder, folder / "images" / below, folder / "images"]
        file = f"annotations/{file}"
        return lists.read(folder / file, classes=classes, count=count, roots=roots)

    if unknown := test_images.keys() - folders.keys():
        raise UserError(f"{suite}/{name} names no folder of its test set '{min(unknown)}'")
    files.folder(base, folders[SOURCE], f"{suite}/{name}", ADVICE)
    train = partial(listed, SOURCE, TRAIN.format(shots, draw), "train", classes * shots)
    tests = {of: partial(listed, of, VAL, "val", count) for of, count in test_images.items()}
    return files.task(
        {"train": train, "trainval": train, **tests},
        view=view,
        cache=cache,
        name=name,
        title=title,
        suite=suite,
        group=group,
        classes=classes,
        tests=tuple(test_images),
        parts={},
    )


def layout(values: Mapping[str, Any]) -> tuple[Folder, ...]:
    """The folders that a task needs: the source's with the lists of all draws, and each test's."""
    classes, shots, folders = values["classes"], values["shots"], values["folders"]
    train = {
        f"annotations/{TRAIN.format(shots, draw)}": Wanted(classes * shots, "images/train")
        for draw in range(DRAWS)
    }
    found = {SOURCE: train} | {of: {} for of in values["test_images"] if of != SOURCE}
    for of, count in values["test_images"].items():
        found[of][f"annotations/{VAL}"] = Wanted(count, "images/val" if of == SOURCE else "")
    return tuple(Folder(tuple(folders[of]), classes, wanted) for of, wanted in found.items())
