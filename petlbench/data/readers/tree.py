"""A user's own images: which there are, of which class, in which split. No torch.

Three layouts: `root/CLASS/image`, `root/SPLIT/CLASS/image` with the splits train, val and test, or
a CSV file with a head line and the columns path, label and, if you like, split.
"""

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from petlbench.errors import UserError

# what PIL decodes everywhere
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
ADVICE = (
    "give dataset.root=FOLDER with a folder of images for each class, or dataset.root=FILE.csv"
)


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
        """The classes: sorted, numbers by their value."""
        found = {image.label for image in self.images}
        if all(name.isascii() and name.isdecimal() for name in found):
            return tuple(sorted(found, key=int))
        return tuple(sorted(found))

    def content(self) -> str:
        """16 hex digits that tell one tree from another: paths, classes, splits, sizes."""
        digest = hashlib.sha256()
        for image in self.images:
            try:
                size = (self.folder / image.path).stat().st_size
            except OSError as error:
                raise UserError(
                    f"image '{self.folder / image.path}' of '{self.root}' cannot be read: "
                    f"{error.strerror}"
                ) from error
            line = f"{image.path}\0{image.label}\0{image.split}\0{size}\n"
            digest.update(os.fsencode(line))
        return digest.hexdigest()[:16]


def overlooked(root: Path) -> list[str]:
    """What lies in a folder and is no part of its tree: a sentence for each kind."""
    if not root.is_dir():
        return []
    taken = {root / image.path for image in scan(str(root)).images}
    found = [file for file in sorted(root.rglob("*")) if file not in taken and _shown(file, root)]
    loose = [file for file in found if file.is_file() and file.suffix.lower() in SUFFIXES]
    others = [file for file in found if file.is_file() and file.suffix.lower() not in SUFFIXES]
    empty = [folder for folder in found if folder.is_dir() and not any(images_below(folder))]
    kinds = (
        (loose, "images in no class folder are left out"),
        (others, f"files are no images by their suffix ({', '.join(SUFFIXES)})"),
        (empty, "folders hold no image"),
    )
    return [f"{len(some)} {what}, for example '{some[0]}'" for some, what in kinds if some]


def _shown(file: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(root).parts)


@cache
def scan(root: str) -> Tree:
    """All images of a folder or CSV file. Raises UserError where there is nothing to learn."""
    place = Path(root).expanduser()
    if place.is_file():
        folder, found = place.parent, list(_table(place))
    elif place.is_dir():
        folder, found = place, list(_tree(place))
    else:
        raise UserError(f"no folder or file '{place}'; {ADVICE}")
    tree = Tree(place, folder, tuple(sorted(found, key=lambda image: image.path)))
    if len(tree.names) < 2:
        raise UserError(
            f"'{place}' has {len(tree.images)} images of {len(tree.names)} classes "
            f"({', '.join(tree.names) or 'none'}); at least two classes are needed; {ADVICE}"
        )
    return tree


def class_count(root: str) -> int:
    """The number of classes of a user's folder or CSV file."""
    return len(scan(root).names)


def content_hash(root: str) -> str:
    """16 hex digits that distinguish a user's folder or CSV file from another."""
    return scan(root).content()


def divided(tree: Tree, *, val: float, test: float, seed: int) -> dict[str, list[Image]]:
    """Images of train, val and test: as the user divided them; what is missing, from train.

    `val` and `test` are shares of each class, rounded; at least one image of a class stays in
    train. The seed and the paths of a class order its images, so the same tree divides alike
    everywhere; new images may move others of their class.
    """
    parts: dict[str, list[Image]] = defaultdict(list)
    for image in tree.images:
        parts[image.split or "train"].append(image)
    shares = {"val": val, "test": test}
    wanted = {name: share for name, share in shares.items() if name not in parts}
    by_class: dict[str, list[Image]] = defaultdict(list)
    for image in sorted(parts["train"], key=lambda image: _draw(image.path, seed)):
        by_class[image.label].append(image)
    for members in by_class.values():
        total = len(members)
        for name, share in wanted.items():
            count = min(round(share * total), len(members) - 1)
            parts[name] += [members.pop() for _ in range(count)]
    kept = {image.path for members in by_class.values() for image in members}
    parts["train"] = [image for image in parts["train"] if image.path in kept]
    return {name: sorted(parts[name], key=lambda image: image.path) for name in SPLITS.values()}


def images_below(folder: Path) -> Iterator[Path]:
    """All image files in a folder and those in it, sorted; hidden files and folders are not."""
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in SUFFIXES and _shown(file, folder) and file.is_file():
            yield file


def _draw(path: str, seed: int) -> bytes:
    return hashlib.sha256(os.fsencode(f"{seed} {path}")).digest()


def _tree(root: Path) -> Iterator[Image]:
    folders = _folders(root)
    splits = [SPLITS.get(folder.name.lower()) for folder in folders]
    others = [folder.name for folder, split in zip(folders, splits, strict=True) if not split]
    if others and len(set(splits) - {None}) > 1:
        raise UserError(
            f"'{root}' has folders of splits beside '{others[0]}', which is none; take it out, "
            "or name the images in a CSV file with path,label,split"
        )
    if folders and not others:
        for folder, split in zip(folders, splits, strict=True):
            yield from _classes(root, _folders(folder), split)
    else:
        yield from _classes(root, folders, None)


def _classes(root: Path, folders: Iterable[Path], split: str | None) -> Iterator[Image]:
    for folder in folders:
        for file in images_below(folder):
            yield Image(file.relative_to(root).as_posix(), folder.name, split)


def _folders(root: Path) -> list[Path]:
    return sorted(item for item in root.iterdir() if item.is_dir() and item.name[0] != ".")


def _table(file: Path) -> Iterator[Image]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{file}' cannot be read as CSV: {error}") from error
    if rows and not {"path", "label"} <= rows[0][1].keys():
        raise UserError(
            f"'{file}' has the columns {', '.join(map(str, rows[0][1]))}; path and label "
            "must be there, split may be"
        )
    found: dict[str, Image] = {}
    for number, row in rows:
        path, label = (str(row[key] or "").strip() for key in ("path", "label"))
        split = str(row.get("split") or "").strip().lower()
        if not path or not label:
            raise UserError(f"line {number} of '{file}' has no path or no label")
        if split and split not in SPLITS:
            raise UserError(
                f"line {number} of '{file}' has split '{split}'; use train, val or test"
            )
        image = Image(path, label, SPLITS[split] if split else None)
        if found.setdefault(path, image) != image:
            raise UserError(
                f"line {number} of '{file}' gives '{path}' another label or split than a line "
                "before it; an image has one of each"
            )
    yield from found.values()  # an image that is named twice counts once
