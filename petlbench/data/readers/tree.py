"""A user's own images: which exist, of which class, in which split. Imports no torch.

Three layouts: `root/CLASS/image`, `root/SPLIT/CLASS/image` with the splits train, val and test, or
a CSV file with the columns path, label and, optionally, split (table.py).
"""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

from petlbench.data.readers import table
from petlbench.errors import UserError
from petlbench.system import file_status, user_path

USUAL = ".bmp, .gif, .jpeg, .jpg, .png, .tiff, .webp or another that Pillow reads"
# Pillow recognises these and decodes them with another program or not at all
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# folders that archivers, servers and file systems leave beside images
LEFT_BEHIND = {
    *("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
}
ADVICE = (
    "set dataset.root=FOLDER to a folder with a folder of images for each class, or "
    "dataset.root=FILE.csv"
)


@dataclass(frozen=True)
class Image:
    """An image: its path relative to `Tree.folder`, its class, its split if the user chose one."""

    path: str
    label: str
    split: str | None


@dataclass(frozen=True)
class Fold:
    """One of `count` parts of the images, which are tested in turn; numbers count from 0."""

    number: int
    count: int


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
        folder, images = place.parent, list(_table(place))
    elif place.is_dir():
        folder, images = place, list(_class_folders(place))
    else:
        raise UserError(f"no folder or file '{place}'; {ADVICE}")
    tree = Tree(place, folder, tuple(sorted(images, key=lambda image: image.path)))
    _refuse_spellings(tree)
    if len(tree.names) < 2:
        raise UserError(
            f"'{place}' has {len(tree.images)} images of {len(tree.names)} classes "
            f"({', '.join(tree.names) or 'none'}); at least two classes are needed; "
            f"{_hint(tree) or ADVICE}"
        )
    return tree


def _hint(tree: Tree) -> str | None:
    """Where the classes of a folder with less than two of them may be."""
    if not tree.root.is_dir():
        return None
    if tree.images:
        below = tree.root / Path(tree.images[0].path).parts[0]
        inside = [folder.name for folder in _folders(below) if any(images_below(folder))]
        # a folder around those of the classes, as archives have one
        return f"did you mean dataset.root='{below}'?" if len(inside) > 1 else None
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


def divided(
    tree: Tree, *, val: float, test: float, seed: int, fold: Fold | None = None
) -> dict[str, list[Image]]:
    """Images of train, val and test: as the user divided them; a missing split comes from train.

    `val` and `test` are shares of each class, rounded; at least one image of a class stays in
    train. A hash of seed and path orders the images of a class, so the division of a tree is the
    same on every machine; new images may move others of their class. With a fold, test is that
    part of each class, and every image is in test of one fold. Raises UserError for a class that
    nothing teaches, and for folds of images that have a test split or of a class of one image.
    """
    parts: dict[str, list[Image]] = defaultdict(list)
    for image in tree.images:
        parts[image.split or "train"].append(image)
    shares = {name: share for name, share in (("val", val), ("test", test)) if name not in parts}
    by_class: dict[str, list[Image]] = defaultdict(list)
    # a hash and not a generator, whose order would change with every new image
    for image in sorted(parts["train"], key=lambda image: _rank(image.path, seed)):
        by_class[image.label].append(image)
    totals = {label: len(members) for label, members in by_class.items()}
    if fold is not None:
        _refuse_folds(tree, parts, totals)
        parts["test"] = _tested(by_class, fold)
        del shares["test"]
    for label, members in by_class.items():
        for name, share in shares.items():
            count = min(round(share * totals[label]), len(members) - 1)
            parts[name] += [members.pop() for _ in range(count)]
    left = {image.path for members in by_class.values() for image in members}
    parts["train"] = [image for image in parts["train"] if image.path in left]
    learned = {image.label for name in ("train", "val") for image in parts[name]}
    if unknown := sorted({image.label for image in parts["test"]} - learned):
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(
            f"'{tree.root}' has images of class '{unknown[0]}'{more} in test alone, so nothing "
            "teaches it; add some to train, or leave it out"
        )
    return {name: sorted(parts[name], key=lambda image: image.path) for name in SPLITS.values()}


def _refuse_folds(tree: Tree, parts: Iterable[str], totals: Mapping[str, int]) -> None:
    if "test" in parts:
        raise UserError(
            f"'{tree.root}' has a test split of its own; dataset.folds is for images without one: "
            "leave it out"
        )
    if single := sorted(label for label, total in totals.items() if total == 1):
        raise UserError(
            f"'{tree.root}' has one image of class '{single[0]}' to train and test on; folds need "
            "two of each class: add some, or leave the class out"
        )


def _tested(by_class: Mapping[str, list[Image]], fold: Fold) -> list[Image]:
    """Take the images of a fold out of the classes; the folds of a class differ by one at most."""
    found, first = [], 0
    for label in sorted(by_class):
        members = by_class[label]
        folds = [(first + place) % fold.count for place in range(len(members))]
        # the next class begins where this one ends: so the folds differ by one image at most
        first += len(members)
        found += [m for m, own in zip(members, folds, strict=True) if own == fold.number]
        members[:] = [m for m, own in zip(members, folds, strict=True) if own != fold.number]
    return found


def _rank(path: str, seed: int) -> bytes:
    return hashlib.sha256(os.fsencode(f"{seed} {path}")).digest()


def ignored(tree: Tree) -> list[str]:
    """A sentence for each kind of file or folder below the root that is not part of the tree."""
    if not tree.root.is_dir():
        return _one_sided(tree)
    images = {tree.root / image.path for image in tree.images}
    others = [path for path in _visible(tree.root) if path not in images]
    loose = [path for path in others if path.is_file() and _is_image(path)]
    empty = [path for path in others if path.is_dir() and not any(images_below(path))]
    kinds = (
        (loose, "images outside a class folder are ignored"),
        (foreign(tree.root), f"files are ignored; the suffix of an image is {USUAL}"),
        (empty, "folders hold no image"),
    )
    sentences = [
        f"{len(found)} {what}, for example '{found[0]}'" for found, what in kinds if found
    ]
    return sentences + _one_sided(tree) + _deep(tree)


def _deep(tree: Tree) -> list[str]:
    """A sentence if images lie in folders inside those of their classes."""
    deep: dict[str, Image] = {}
    for image in tree.images:
        # CLASS/image, or SPLIT/CLASS/image
        if image.path.count("/") > (1 if image.split is None else 2):
            deep.setdefault(image.label, image)
    if not deep:
        return []
    example = Path(next(iter(deep.values())).path).parent
    return [
        f"{len(deep)} classes have images in folders inside their own, which are no classes, for "
        f"example '{example}'"
    ]


def _one_sided(tree: Tree) -> list[str]:
    """A sentence if the user's own splits have different classes."""
    classes: dict[str, set[str]] = defaultdict(set)
    for image in tree.images:
        classes[image.split or "train"].add(image.label)
    return [
        f"{len(missing)} classes have no image in {split}, for example '{sorted(missing)[0]}'"
        for split, present in sorted(classes.items())
        if (missing := set(tree.names) - present)
    ]


def images_below(folder: Path) -> Iterator[Path]:
    """All image files below a folder, sorted, without hidden files and folders.

    Linked folders belong to it.
    """
    return (path for path in _visible(folder) if _is_image(path) and path.is_file())


def foreign(folder: Path) -> list[Path]:
    """The visible files below a folder whose suffix is not that of an image."""
    return [path for path in _visible(folder) if not _is_image(path) and path.is_file()]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in suffixes()


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of the files that Pillow decodes, with the plugins that are loaded."""
    from PIL import Image as pillow

    pillow.init()
    return frozenset(
        suffix
        for suffix, name in pillow.registered_extensions().items()
        if name in pillow.OPEN and name not in NOT_DECODED
    )


def _visible(folder: Path) -> list[Path]:
    """All that is below a folder and not hidden, sorted; links are followed."""
    return sorted(_walk(folder, frozenset()))


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    try:
        place, inside = folder.resolve(), list(folder.iterdir())
    except OSError as error:
        raise UserError(f"folder '{folder}' cannot be read: {error.strerror}") from error
    for path in inside:
        if _is_hidden(path):
            continue
        yield path
        # a link to a folder above it has no end
        if path.is_dir() and path.resolve() not in {*above, place, *place.parents}:
            yield from _walk(path, above | {place})


def _class_folders(root: Path) -> Iterator[Image]:
    folders = _folders(root)
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
            yield from _images(root, _folders(folder), split)
    else:
        yield from _images(root, folders, None)


def _images(root: Path, folders: Iterable[Path], split: str | None) -> Iterator[Image]:
    for folder in folders:
        for file in images_below(folder):
            # folders inside a class folder are not classes
            yield Image(file.relative_to(root).as_posix(), folder.name, split)


def _folders(root: Path) -> list[Path]:
    return sorted(item for item in root.iterdir() if item.is_dir() and not _is_hidden(item))


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name in LEFT_BEHIND


def _table(file: Path) -> Iterator[Image]:
    by_path: dict[str, Image] = {}
    for number, row in table.rows(file):
        path, label, split = row["path"], row["label"], row.get("split", "").lower()
        if not path or not label:
            raise UserError(f"line {number} of '{file}' has no path or no label")
        if split and split not in SPLITS:
            raise UserError(
                f"line {number} of '{file}' has split '{split}'; use train, val or test"
            )
        image = Image(path, label, SPLITS[split] if split else None)
        if by_path.setdefault(path, image) != image:
            raise UserError(
                f"line {number} of '{file}' gives '{path}' another label or split than an "
                "earlier line; an image has one of each"
            )
    yield from by_path.values()  # an image that is named twice counts once
