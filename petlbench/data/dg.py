"""Domain generalisation as NOAH lists it: 16 images a class of ImageNet, tested on five sets.

`root/imagenet/annotations/train_meta.list.num_shot_16.seed_D` lists the training images below
`root/imagenet/images/train/`; `root/SET/annotations/val_meta.list` the images of each test set.
All labels are ImageNet's: sets of 200 classes are scored among all 1000, as the field does.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from petlbench.checks import whole
from petlbench.data import files, lists
from petlbench.data.images import View
from petlbench.data.lists import Listed
from petlbench.data.task import Task
from petlbench.errors import UserError

DRAWS = 3
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
        found = lists.read(folder / "annotations" / file, classes=classes, count=count)
        return files.rooted(found, [folder, folder / "images" / below, folder / "images"])

    if unknown := test_images.keys() - folders.keys():
        raise UserError(f"{suite}/{name} names no folder of its test set '{min(unknown)}'")
    files.folder(base, folders[SOURCE], f"{suite}/{name}", ADVICE)
    file = f"train_meta.list.num_shot_{shots}.seed_{draw}"
    train = partial(listed, SOURCE, file, "train", classes * shots)
    tests = {
        of: partial(listed, of, "val_meta.list", "val", count) for of, count in test_images.items()
    }
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
