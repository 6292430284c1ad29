"""Which of a user's own images train, select and test: their own splits, shares, or folds."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from petlbench.data.readers.tree import SPLITS, Image, Tree
from petlbench.errors import UserError

Parts = dict[str, list[Image]]  # by split, or by class


@dataclass(frozen=True)
class Fold:
    """One of `count` parts of the images, which are tested in turn; numbers count from 0."""

    number: int
    count: int


def divided(tree: Tree, *, val: float, test: float, seed: int, fold: Fold | None = None) -> Parts:
    """Images of train, val and test: as the user divided them; a missing split comes from train.

    `val` and `test` are shares of each class, rounded; at least one image of a class stays in
    train. A hash of seed and path orders the images of a class, so the division of a tree is the
    same on every machine; new images may move others of their class. With a fold, test is that
    part of each class, and every image is in test of one fold. Raises UserError for a class that
    nothing teaches, and for folds of images that have a val or test split or of a class of one
    image.
    """
    parts: Parts = defaultdict(list)
    for image in tree.images:
        parts[image.split or "train"].append(image)
    shares = {name: share for name, share in (("val", val), ("test", test)) if name not in parts}
    classes = _shuffled(parts["train"], seed)
    totals = {label: len(members) for label, members in classes.items()}
    if fold is not None:
        _refuse_folds(tree, parts, totals)
        parts["test"] = _tested(classes, fold)
        del shares["test"]
    for label, members in classes.items():
        for name, share in shares.items():
            count = min(round(share * totals[label]), len(members) - 1)
            parts[name] += [members.pop() for _ in range(count)]
    parts["train"] = [image for members in classes.values() for image in members]
    _refuse_unknown(tree, parts)
    return {name: sorted(parts[name], key=lambda image: image.path) for name in SPLITS.values()}


def _shuffled(images: Iterable[Image], seed: int) -> Parts:
    """The images of each class, in an order that a seed decides."""
    classes: Parts = defaultdict(list)
    # a hash and not a generator, whose order would change with every new image
    for image in sorted(images, key=lambda image: _rank(image.path, seed)):
        classes[image.label].append(image)
    return classes


def _rank(path: str, seed: int) -> bytes:
    return hashlib.sha256(os.fsencode(f"{seed} {path}")).digest()


def _refuse_unknown(tree: Tree, parts: Parts) -> None:
    learned = {image.label for name in ("train", "val") for image in parts[name]}
    if unknown := sorted({image.label for image in parts["test"]} - learned):
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(
            f"'{tree.root}' has images of class '{unknown[0]}'{more} in test alone, so nothing "
            "teaches it; add some to train, or leave it out"
        )


def _refuse_folds(tree: Tree, parts: Iterable[str], totals: Mapping[str, int]) -> None:
    if own := next((name for name in ("test", "val") if name in parts), None):
        raise UserError(
            f"'{tree.root}' has a {own} split of its own; dataset.folds is for images without: "
            "leave it out"
        )
    if single := sorted(label for label, total in totals.items() if total == 1):
        raise UserError(
            f"'{tree.root}' has one image of class '{single[0]}' to train and test on; folds need "
            "two of each class: add some, or leave the class out"
        )


def _tested(classes: Parts, fold: Fold) -> list[Image]:
    """Take the images of a fold out of the classes; the folds of a class differ by one at most."""
    found, first = [], 0
    for label in sorted(classes):
        members = classes[label]
        folds = [(first + place) % fold.count for place in range(len(members))]
        # the next class begins where this one ends: so the folds differ by one image at most
        first += len(members)
        found += [m for m, own in zip(members, folds, strict=True) if own == fold.number]
        members[:] = [m for m, own in zip(members, folds, strict=True) if own != fold.number]
    return found
