"""Lists of images as the field passes them around: a line an image, its path and its label."""

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


def read(
    file: Path, *, classes: int, count: int | None = None, root: Path | None = None
) -> Listed:
    """Read a list: `path label` a line, split at the last blank, so a path may have blanks.

    root: what the paths are relative to, the list's folder if none is given. Raises UserError with
    the line where a line has no label, or one outside 0 .. classes - 1, and where there are not
    `count` lines.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"list '{file}' cannot be read: {why}") from error
    paths, labels = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        *path, label = line.strip().rsplit(maxsplit=1)
        if not path or not (label.isascii() and label.isdecimal()):
            raise UserError(f"line {number} of '{file}' is no path and label: '{line.strip()}'")
        if int(label) >= classes:
            raise UserError(
                f"line {number} of '{file}' has label {label}; the task has {classes} classes, "
                f"labels 0 to {classes - 1}"
            )
        paths.append(path[0])
        labels.append(int(label))
    if count is not None and len(labels) != count:
        raise UserError(
            f"'{file}' lists {len(labels)} images, and the task has {count}; get the whole archive"
        )
    return Listed(file, root or file.parent, tuple(paths), tuple(labels))
