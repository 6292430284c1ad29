"""Domain generalisation with NOAH's lists: 16 images a class of ImageNet, five test sets.

`root/imagenet/annotations/train_meta.list.num_shot_16.seed_D` lists the training images below
`root/imagenet/images/train/`; `root/SET/annotations/val_meta.list` the images of each test set.
All labels are ImageNet's: sets of 200 classes are scored among all 1000, as the papers do.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from petlbench.checks import whole
from petlbench.data.images import View
from petlbench.data.readers import files, lists
from petlbench.data.readers.layout import DRAWS, RequiredFolder, RequiredList
from petlbench.data.readers.lists import ImageList
from petlbench.data.task import Task
from petlbench.errors import UserError
from petlbench.system import user_path

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
    on_bad_image: str = "error",  # a yaml of another package may lack it
) -> Task:
    """A training set and its test sets.

    draw: number of the training list, 0 to 2. test_images: images of each test set, by its name.
    folders: names of the folder of each set. Raises UserError if data are missing.
    """
    whole("dataset.draw", draw, low=0, high=DRAWS - 1, of="the lists that NOAH drew")
    base = user_path("dataset.root", root)

    def read(domain: str, file: str, below: str, count: int) -> ImageList:
        folder = files.folder(base, folders[domain], f"{suite}/{name}", ADVICE)
        # ImageNet's paths start in images/train or images/val, those of the others in their folder
        roots = [folder, folder / "images" / below, folder / "images"]
        file = f"annotations/{file}"
        return lists.read(folder / file, classes=classes, count=count, roots=roots)

    if unknown := test_images.keys() - folders.keys():
        raise UserError(f"{suite}/{name} names no folder of its test set '{min(unknown)}'")
    # a missing folder is reported now; the lists are read when a split is opened
    files.folder(base, folders[SOURCE], f"{suite}/{name}", ADVICE)
    train = partial(read, SOURCE, TRAIN.format(shots, draw), "train", classes * shots)
    tests = {domain: partial(read, domain, VAL, "val", n) for domain, n in test_images.items()}
    return files.task(
        # no list of NOAH is for validation: protocols that need one are refused
        {"train": train, "trainval": train, **tests},
        view=view,
        cache=cache,
        on_bad_image=on_bad_image,
        name=name,
        title=title,
        suite=suite,
        group=group,
        classes=classes,
        tests=tuple(test_images),
        parts={},  # trainval is the same list as train
    )


def layout(values: Mapping[str, Any]) -> tuple[RequiredFolder, ...]:
    """The folders that a task needs: the source's with the lists of all draws, and each test's."""
    classes, shots, folders = values["classes"], values["shots"], values["folders"]
    train = {
        f"annotations/{TRAIN.format(shots, draw)}": RequiredList(classes * shots, "images/train")
        for draw in range(DRAWS)
    }
    required = {SOURCE: train} | {name: {} for name in values["test_images"] if name != SOURCE}
    for domain, count in values["test_images"].items():
        # paths of the other sets start from their own folder
        below = "images/val" if domain == SOURCE else ""
        required[domain][f"annotations/{VAL}"] = RequiredList(count, below)
    return tuple(
        RequiredFolder(tuple(folders[domain]), classes, by_file)
        for domain, by_file in required.items()
    )
