"""A user's own images, `dataset=folder dataset.root=...`: class folders or a CSV file."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache as once
from functools import partial
from pathlib import Path

from petlbench.checks import fraction, whole
from petlbench.data import digests
from petlbench.data.images import OWN, Decoding, View, grey_range
from petlbench.data.readers import division, files, remarks, tree
from petlbench.data.readers.lists import ImageList
from petlbench.data.task import Task
from petlbench.errors import UserError

PARTS = {"train": ["train"], "val": ["val"], "trainval": ["train", "val"], "test": ["test"]}


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
    # a yaml of another package may lack these
    on_bad_image: str = "error",
    folds: int | None = None,
    fold: int = 0,
) -> Task:
    """A task of the user's images: upright, on a white background, 16 bits scaled to 8.

    classes, content: number of classes and hash of the listing, which the configuration reads from
    `root`. val_share, test_share, split_seed: how a missing split is taken from train. folds,
    fold: the test images are those of one of so many folds, instead of a share. Raises UserError
    if the folder cannot be read, or train or test has no image.
    """
    images = tree.scan(root)
    whole("dataset.split_seed", split_seed, low=0)
    parts = division.divided(
        images,
        val=fraction("dataset.val_share", val_share),
        test=fraction("dataset.test_share", test_share),
        seed=split_seed,
        fold=_fold(images, folds, fold),
    )
    _refuse_empty(images, parts)
    return files.task(
        _lists(images, parts, files.cache_folder(cache, suite)),
        view=view,
        cache=cache,
        on_bad_image=on_bad_image,
        name=name,
        title=title,
        suite=suite,
        group=group,
        classes=classes,
        tests=("test",),
        # without val, a search inside training holds out a part of train
        parts={"trainval": ("train", "val")} if parts["val"] else {},
        names=images.names,
        remarks=partial(remarks.ignored, images),
    )


def _fold(images: tree.Tree, folds: int | None, fold: int) -> division.Fold | None:
    """The fold of a run; None without folds. Raises UserError for values that do not fit."""
    if folds is None:
        if fold:
            raise UserError(
                f"dataset.fold is {fold} and dataset.folds is null; set dataset.folds=5"
            )
        return None
    whole("dataset.folds", folds, low=2, high=len(images.images), of="the number of images")
    whole("dataset.fold", fold, low=0, high=folds - 1, of="the folds, counted from 0")
    return division.Fold(fold, folds)


def _refuse_empty(images: tree.Tree, parts: division.Parts) -> None:
    # val may be empty: only some protocols use it
    for split in ("train", "test"):
        if not parts[split]:
            raise UserError(
                f"'{images.root}' leaves no image for {split}: {len(images.images)} images, "
                f"{len(images.names)} classes; add images or set dataset.test_share"
            )


def _lists(images: tree.Tree, parts: division.Parts, cache: Path) -> files.Lists:
    """The list of each split that a protocol may open."""
    # output k of the head is the class names[k] of the task
    labels = {name: label for label, name in enumerate(images.names)}

    @once
    def decoding() -> Decoding:
        # one range for all splits, so that equal values stay equal
        paths = [image.path for image in images.images]
        known = digests.of_files(images.folder, paths, cache)
        return replace(OWN, grey_max=grey_range(each.grey_peak for each in known.values()))

    def read(splits: Iterable[str]) -> ImageList:
        chosen = [image for split in splits for image in parts[split]]
        return ImageList(
            images.root,
            images.folder,
            tuple(image.path for image in chosen),
            tuple(labels[image.label] for image in chosen),
            decoding(),
        )

    return {split: partial(read, splits) for split, splits in PARTS.items()}
