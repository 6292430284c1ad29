"""A user's own images: which exist, of which class, in which split. Imports no torch.

Three layouts: `root/CLASS/image`, `root/SPLIT/CLASS/image` with the splits train, val and test, or
a CSV file with the columns path, label and, optionally, split (table.py).
"""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

from petlbench.data.readers import table
from petlbench.data.readers.image_files import USUAL, foreign, images_below, subfolders
from petlbench.errors import UserError
from petlbench.system import file_status, user_path
from petlbench.units import counted

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# dataset.root, --root of `data` or the argument of `try`
ADVICE = "name a folder with a folder of images for each class, or a .csv file"


@dataclass(frozen=True)
class Image:
    """An image: its path relative to `Tree.folder`, its class, its split if the user chose one."""

    path: str
    label: str
    split: str | None


@dataclass(frozen=True)
class Tree:
    """All images of a root, sorted by path. folder: what their paths are relative to."""

    root: Path
    folder: Path
    images: tuple[Image, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, sorted; numbers by their value."""
        names = {image.label for image in self.images}
        # as text, class 10 would come before class 2; as numbers, 0 and 00 would have no order
        if all(name.isascii() and name.isdecimal() for name in names):
            return tuple(sorted(names, key=lambda name: (int(name), name)))
        return tuple(sorted(names))

    def content(self) -> str:
        """16 hex digits that distinguish one tree from another: paths, classes, splits, sizes.

        Raises UserError if an image cannot be read.
        """
        digest = hashlib.sha256()
        # sizes instead of pixels: every composition of the configuration computes this hash
        for image in self.images:
            try:
                size = file_status(self.folder / image.path).st_size
            except OSError as error:
                raise UserError(
                    f"image '{self.folder / image.path}' of '{self.root}' cannot be read: "
                    f"{error.strerror}"
                ) from error
            line = f"{image.path}\0{image.label}\0{image.split}\0{size}\n"
            digest.update(os.fsencode(line))  # names need not be UTF-8
        return digest.hexdigest()[:16]


# the configuration asks for classes and hash, the reader for the images
@cache
def scan(root: str) -> Tree:
    """All images of a folder or CSV file. Raises UserError unless there are two classes."""
    place = user_path("dataset.root", root)
    if place.is_file():
        folder, images = _table(place)
    elif place.is_dir():
        folder, images = place, list(_class_folders(place))
    else:
        raise UserError(f"no folder or file '{place}'; {ADVICE}")
    tree = Tree(place, folder, tuple(sorted(images, key=lambda image: image.path)))
    _refuse_spellings(tree)
    if len(tree.names) < 2:
        count, classes = len(tree.images), len(tree.names)
        raise UserError(
            f"'{place}' has {counted(count, 'image')} of {classes} "
            f"class{'es' * (classes != 1)} ({', '.join(tree.names) or 'none'}); at least two "
            f"classes are needed; {_hint(tree) or ADVICE}"
        )
    return tree


def _hint(tree: Tree) -> str | None:
    """Where the classes of a folder with less than two of them may be."""
    if not tree.root.is_dir():
        return None
    if tree.images:
        below = tree.root / Path(tree.images[0].path).parts[0]
        inside = [folder.name for folder in subfolders(below) if any(images_below(folder))]
        # a folder around those of the classes, as archives have one
        return f"did you mean '{below}'?" if len(inside) > 1 else None
    if loose := next(images_below(tree.root), None):
        return f"its images, for example '{loose}', are in no folder of a class; {ADVICE}"
    if others := foreign(tree.root):
        return (
            f"none of its {len(others)} files has the suffix of an image ({USUAL}), for example "
            f"'{others[0]}'; rename them"
        )
    return None


def _refuse_spellings(tree: Tree) -> None:
    """Refuse classes that are one class under two names, each in splits of its own."""
    splits: dict[str, set[str | None]] = defaultdict(set)
    for image in tree.images:
        splits[image.label].add(image.split)
    alike: dict[str, list[str]] = defaultdict(list)
    for name in tree.names:
        alike[_bare(name)].append(name)
    for names in alike.values():
        for one, other in combinations(names, 2):
            if not splits[one] & splits[other]:
                here, there = (min(map(str, splits[name])) for name in (one, other))
                raise UserError(
                    f"'{tree.root}' names one class '{one}' in {here} and '{other}' in {there}; "
                    "give it one name"
                )


def _bare(name: str) -> str:
    """A class name without what spellings differ in: case, accents in two forms, zeros, signs."""
    text = unicodedata.normalize("NFKC", name).casefold()
    words = re.sub(r"[\s_-]+", " ", text).strip()
    return str(int(words)) if words.isascii() and words.isdecimal() else words


def class_count(root: str) -> int:
    """The number of classes of a user's folder or CSV file."""
    return len(scan(root).names)


def content_hash(root: str) -> str:
    """16 hex digits that distinguish a user's folder or CSV file from another."""
    return scan(root).content()


def _class_folders(root: Path) -> Iterator[Image]:
    folders = subfolders(root)
    splits = [SPLITS.get(folder.name.lower()) for folder in folders]
    others = [folder.name for folder, split in zip(folders, splits, strict=True) if not split]
    # one class may be named `test` by chance; two names of splits are meant as splits
    if others and len(set(splits) - {None}) > 1:
        raise UserError(
            f"'{root}' has folders of splits and '{others[0]}', which is not one; remove it, "
            "or name the images in a CSV file with path,label,split"
        )
    if folders and not others:
        for folder, split in zip(folders, splits, strict=True):
            yield from _images(root, subfolders(folder), split)
    else:
        yield from _images(root, folders, None)


def _images(root: Path, folders: Iterable[Path], split: str | None) -> Iterator[Image]:
    for folder in folders:
        for file in images_below(folder):
            # folders inside a class folder are not classes
            yield Image(file.relative_to(root).as_posix(), folder.name, split)


def _table(file: Path) -> tuple[Path, list[Image]]:
    """The images of a CSV file, and the folder that their paths are relative to."""
    by_place: dict[str, Image] = {}  # one image may be named in several ways
    for number, row in table.rows(file):
        path, label, split = row["path"], row["label"], row.get("split", "").lower()
        if not path or not label:
            raise UserError(f"line {number} of '{file}' has no path or no label")
        if split and split not in SPLITS:
            raise UserError(
                f"line {number} of '{file}' has split '{split}'; use train, val or test"
            )
        image = Image(path, label, SPLITS[split] if split else None)
        first = by_place.setdefault(os.path.abspath(file.parent / path), image)
        if (first.label, first.split) != (image.label, image.split):
            raise UserError(
                f"line {number} of '{file}' gives '{path}' another label or split than an "
                "earlier line; an image has one of each"
            )
    return _relative(file.parent, list(by_place.values()))


def _relative(folder: Path, images: list[Image]) -> tuple[Path, list[Image]]:
    """Absolute paths relative to the folder that all images share: a record names no other."""
    if not any(os.path.isabs(image.path) for image in images):
        return folder, images
    paths = [os.path.abspath(folder / image.path) for image in images]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return Path(shared), [
        replace(image, path=Path(path).relative_to(shared).as_posix())
        for image, path in zip(images, paths, strict=True)
    ]
