"""Lists of images as published repositories have them: on each line, a path and a label."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from petlbench.data import images
from petlbench.data.images import PUBLISHED, Decoding
from petlbench.errors import UserError
from petlbench.system import file_status

LONGEST = 20  # digits of a label


@dataclass(frozen=True)
class ImageList:
    """The image files of one list and their labels, in its order.

    file: the list itself. root: the folder that `paths` are relative to. decoding: how the files
    become RGB images.
    """

    file: Path
    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    decoding: Decoding = PUBLISHED

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def files(self) -> list[Path]:
        """The image files, with the root."""
        return [self.root / path for path in self.paths]

    def original(self, index: int) -> Image.Image:
        """An image at its own size, RGB."""
        return images.original(self.root / self.paths[index], self.decoding)

    def without(self, left_out: Collection[str]) -> "ImageList":
        """The list without some of its paths."""
        pairs = zip(self.paths, self.labels, strict=True)
        kept = [(path, label) for path, label in pairs if path not in left_out]
        return replace(
            self,
            paths=tuple(path for path, _ in kept),
            labels=tuple(label for _, label in kept),
        )

    def without_repeats(self) -> "ImageList":
        """Each image once, at its first position."""
        # reversed: the label of the first position wins, as its place does
        labels = dict(zip(reversed(self.paths), reversed(self.labels), strict=True))
        paths = tuple(dict.fromkeys(self.paths))
        return replace(self, paths=paths, labels=tuple(labels[path] for path in paths))


class DefectiveList(UserError):
    """A list with mistakes.

    The message is the first of `defects`; `images` holds the lines that can be read.
    """

    def __init__(self, defects: Sequence[str], images: ImageList) -> None:
        super().__init__(defects[0])
        self.defects = tuple(defects)
        self.images = images


def read(
    file: Path,
    *,
    classes: int,
    count: int | None = None,
    distinct: int | None = None,
    roots: Sequence[Path] = (),
) -> ImageList:
    """Read a list: `path label` on each line, split at the last blank, so a path may have blanks.

    roots: folders that the paths may start from, default the folder of the list; the list takes
    the first one that holds an image of it. Raises UserError if the file cannot be read, and
    DefectiveList for lines without a label or with one outside 0 .. classes - 1, for other than
    `count` lines or `distinct` different images, and if no root holds any image.
    """
    paths, labels, defects = _parse(file, classes)
    defects += _miscount(file, paths, len(defects), count, distinct)
    root = _root(paths, roots or [file.parent])
    if root is None and roots:
        folders = " or ".join(f"'{root}'" for root in roots)
        defects.append(f"no image '{paths[0]}' of '{file}' in {folders}")
    # a list with defects gets a root too: `verify` examines its images all the same
    images = ImageList(file, root or (*roots, file.parent)[0], tuple(paths), tuple(labels))
    if defects:
        raise DefectiveList(defects, images)
    return images


def _parse(file: Path, classes: int) -> tuple[list[str], list[int], list[str]]:
    """Paths, labels, and a sentence for each line that is wrong."""
    paths: list[str] = []
    labels: list[int] = []
    defects: list[str] = []
    # not splitlines(): names may hold what Unicode counts as an end of line
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        # at the last blank: file names of ImageNet-A have blanks
        *path, label = line.strip().rsplit(maxsplit=1)
        # "-1" passes, to be reported as out of range; isdecimal alone takes digits of any script
        if not path or not (label.isascii() and label.removeprefix("-").isdecimal()):
            defects.append(
                f"line {number} of '{file}' is not a path and a label: '{line.strip()}'"
            )
        # Python refuses to convert thousands of digits
        elif len(label) > LONGEST or not 0 <= int(label) < classes:
            defects.append(
                f"line {number} of '{file}' has label {label}; the task has {classes} classes, "
                f"labels 0 to {classes - 1}"
            )
        else:
            paths.append(path[0])
            labels.append(int(label))
    return paths, labels, defects


def _text(file: Path) -> str:
    try:
        file_status(file)
        # without the byte order mark that some editors write
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"list '{file}' cannot be read: {reason}") from error


def _miscount(
    file: Path, paths: Sequence[str], wrong: int, count: int | None, distinct: int | None
) -> list[str]:
    """A sentence if the number of images is wrong; `wrong` lines count as images."""
    # a line with a defect is no missing image as well
    total, different = len(paths) + wrong, len(set(paths)) + wrong
    if count is not None and total != count:
        return [
            f"'{file}' lists {total} images, and the task has {count}; get the complete archive"
        ]
    if distinct is not None and different != distinct:
        return [
            f"'{file}' lists {different} different images, and the task has {distinct}; "
            "get the complete archive"
        ]
    return []


def _root(paths: Sequence[str], roots: Sequence[Path]) -> Path | None:
    if not paths:
        return roots[0]
    # all paths, as one missing image must not hide where the others are
    for path in paths:
        for root in roots:
            if (root / path).is_file():
                return root
    return None
