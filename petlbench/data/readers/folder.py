"""A user's own images, `dataset=folder dataset.root=...`: class folders or a CSV file."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from petlbench.checks import fraction, whole
from petlbench.data.images import View
from petlbench.data.readers import files, tree
from petlbench.data.readers.lists import Listed
from petlbench.data.task import Task
from petlbench.errors import UserError

TREES = {"train": ["train"], "val": ["val"], "trainval": ["train", "val"], "test": ["test"]}


def remarks(values: Mapping[str, Any]) -> list[str]:
    """What `verify` has to say of a folder beside its images."""
    return tree.overlooked(Path(values["root"]).expanduser())


def load(
    *,
    name: str,
    title: str,
    suite: str,
    group: str,
    classes: int,
    content: str,
    val_share: float,
    test_share: float,
    split_seed: int,
    root: str,
    cache: str,
    view: View,
) -> Task:
    """A task of the user's images, which are turned as their EXIF data say.

    classes, content: number of classes and hash of the listing, which the configuration reads from
    `root`. val_share, test_share, split_seed: how a missing split is taken from train.
    """
    found = tree.scan(root)
    whole("dataset.split_seed", split_seed, low=0)
    parts = tree.divided(
        found,
        val=fraction("dataset.val_share", val_share),
        test=fraction("dataset.test_share", test_share),
        seed=split_seed,
    )
    for split in ("train", "test"):
        if not parts[split]:
            raise UserError(
                f"'{found.root}' leaves no image for {split}: {len(found.images)} images, "
                f"{classes} classes; add images or set dataset.test_share"
            )
    numbers = {label: number for number, label in enumerate(found.names)}

    def listed(splits: Iterable[str]) -> Listed:
        images = [image for split in splits for image in parts[split]]
        return Listed(
            found.root,
            found.folder,
            tuple(image.path for image in images),
            tuple(numbers[image.label] for image in images),
            upright=True,
        )

    return files.task(
        {split: partial(listed, splits) for split, splits in TREES.items()},
        view=view,
        cache=cache,
        name=name,
        title=title,
        suite=suite,
        group=group,
        classes=classes,
        tests=("test",),
        parts={"trainval": ("train", "val")} if parts["val"] else {},
        names=found.names,
    )
