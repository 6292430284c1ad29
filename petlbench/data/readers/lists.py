"""Lists of images as the field passes them around: a line an image, its path and its label."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from petlbench.data import images
from petlbench.errors import UserError


@dataclass(frozen=True)
class Listed:
    """The images of one list, in its order.

    file: what lists them. root: folder that `paths` are relative to. upright: their EXIF rotation
    counts; the field's loaders ignore it.
    """

    file: Path
    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    upright: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def original(self, place: int) -> Image.Image:
        """An image at its own size, RGB."""
        return images.original(self.root / self.paths[place], upright=self.upright)

    def once(self) -> "Listed":
        """Each image once, at its first place."""
        first = dict(zip(reversed(self.paths), reversed(self.labels), strict=True))
        paths = dict.fromkeys(self.paths)
        return replace(self, paths=tuple(paths), labels=tuple(first[path] for path in paths))


class Flawed(UserError):
    """A list with mistakes.

    The message is the first of `flaws`; `listed` is what can be read all the same.
    """

    def __init__(self, flaws: Sequence[str], listed: Listed) -> None:
        super().__init__(flaws[0])
        self.flaws = tuple(flaws)
        self.listed = listed


def read(
    file: Path,
    *,
    classes: int,
    count: int | None = None,
    distinct: int | None = None,
    roots: Sequence[Path] = (),
) -> Listed:
    """Read a list: `path label` a line, split at the last blank, so a path may have blanks.

    roots: folders that the paths may start from, the list's own if none is given; the one that
    holds its first image that is there counts. Raises UserError where the file cannot be read, and
    Flawed for lines without a label or with one outside 0 .. classes - 1, for other than `count`
    lines or `distinct` different images, and where no root holds any image.
    """
    paths: list[str] = []
    labels: list[int] = []
    flaws: list[str] = []
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        *path, label = line.strip().rsplit(maxsplit=1)
        if not path or not (label.isascii() and label.removeprefix("-").isdecimal()):
            flaws.append(f"line {number} of '{file}' is no path and label: '{line.strip()}'")
        elif not 0 <= int(label) < classes:
            flaws.append(
                f"line {number} of '{file}' has label {label}; the task has {classes} classes, "
                f"labels 0 to {classes - 1}"
            )
        else:
            paths.append(path[0])
            labels.append(int(label))
    flaws += _miscounted(file, paths, len(flaws), count, distinct)
    root = _root(paths, roots or [file.parent])
    if root is None and roots:
        tried = " or ".join(f"'{root}'" for root in roots)
        flaws.append(f"no image '{paths[0]}' of '{file}' in {tried}")
    listed = Listed(file, root or (*roots, file.parent)[0], tuple(paths), tuple(labels))
    if flaws:
        raise Flawed(flaws, listed)
    return listed


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"list '{file}' cannot be read: {why}") from error


def _miscounted(
    file: Path, paths: Sequence[str], wrong: int, count: int | None, distinct: int | None
) -> list[str]:
    """What to say of the number of images; `wrong` lines count as images."""
    if count is not None and len(paths) + wrong != count:
        return [
            f"'{file}' lists {len(paths) + wrong} images, and the task has {count}; "
            "get the whole archive"
        ]
    if distinct is not None and (found := len(set(paths)) + wrong) != distinct:
        return [
            f"'{file}' lists {found} different images, and the task has {distinct}; "
            "get the whole archive"
        ]
    return []


def _root(paths: Sequence[str], roots: Sequence[Path]) -> Path | None:
    if not paths:
        return roots[0]
    for path in paths:
        for root in roots:
            if (root / path).is_file():
                return root
    return None
