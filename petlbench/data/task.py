"""A task: one data set with its splits, as uint8 images and labels. Imports no torch."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from petlbench.data.cached import CachedPixels
from petlbench.data.readers.lists import ImageList

if TYPE_CHECKING:
    from torch import Tensor

HELD_OUT = 5  # of so many images of a class, `held_out` puts one into the second part
Fingerprint = dict[str, object]


@dataclass(frozen=True)
class Split:
    """Images (N, 3, H, W) uint8 and labels (N,) int64, which may be memory-mapped.

    load_original: returns the image of an index at its own size; None if the split has only its
    resized images. files: paths of the images below the folder of the data; None if they are no
    files.
    """

    images: "Tensor"
    labels: "Tensor"
    fingerprint: Fingerprint
    load_original: Callable[[int], Image.Image] | None = None
    files: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def original(self, index: int) -> Image.Image:
        """The image at its own size, RGB."""
        if self.load_original is not None:
            return self.load_original(index)
        # (3, H, W) -> (H, W, 3)
        return Image.fromarray(self.images[index].permute(1, 2, 0).contiguous().numpy())


@dataclass(frozen=True)
class Task:
    """A data set whose splits are opened by name on demand: no test split before training ends.

    A reader of another package needs no more than the first seven fields.

    tests: names of the test splits. open: returns a split by its name; raises UserError for one
    that cannot be opened. parts: the two splits that a split consists of, for a search inside
    training. names: of the classes, if the data name them. train_splits: the other splits; with
    no split at all, a task has no images. lists: the image files behind each split, by its name;
    empty if the task makes its images. cached: where the decoded pixels of a list are stored;
    None if they are not stored by `petlbench.data.pixels`. check: raises UserError if a split
    cannot be opened, judging by its list and the files of its images; decodes nothing. digest: of
    the labels and image files of a split, wherever they lie; None if the task makes its images;
    raises UserError if one is missing. decode: prepares a split before training, so that `open`
    finds no broken image after it. size: images of a split, None if that is not known without
    them; raises UserError for a missing list. remarks: sentences on the data that
    `python -m petlbench.data verify` reports as notes.
    """

    name: str
    title: str
    suite: str
    group: str
    classes: int
    tests: tuple[str, ...]
    open: Callable[[str], Split]
    parts: Mapping[str, tuple[str, str]] = field(
        default_factory=lambda: {"trainval": ("train", "val")}
    )
    names: tuple[str, ...] | None = None
    train_splits: tuple[str, ...] = ("train", "val", "trainval")
    lists: Mapping[str, Callable[[], ImageList]] = field(default_factory=dict)
    cached: Callable[[ImageList], CachedPixels] | None = None
    check: Callable[[str], None] = lambda split: None
    digest: Callable[[str], str] | None = None
    decode: Callable[[str], None] = lambda split: None
    size: Callable[[str], int | None] = lambda split: None
    remarks: Callable[[], list[str]] = list

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of all splits."""
        return (*self.train_splits, *self.tests)


@dataclass(frozen=True)
class Score:
    """Top-1 accuracy: `correct` of `total` images."""

    correct: int
    total: int

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.correct / self.total


def fingerprint(images: "Tensor", labels: "Tensor", file_format: str) -> Fingerprint:
    """SHA-256 of the pixels and labels of a split, its label histogram and its file format.

    images (N, 3, H, W) uint8, labels (N,)
    """
    # with the shape: equal bytes of another shape are other images
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.contiguous().numpy().data)
    digest.update(labels.contiguous().numpy().data)
    values, counts = labels.unique(return_counts=True)
    return {
        "sha256": digest.hexdigest(),
        "images": len(labels),
        "labels": dict(zip(map(str, values.tolist()), counts.tolist(), strict=True)),
        "format": file_format,
    }


def held_out(split: Split) -> tuple[Split, Split]:
    """A split in two: every HELD_OUT-th image of each class is the second part."""
    rank = split.labels.clone()  # of each image within its class
    for label in split.labels.unique():
        members = split.labels == label
        rank[members] = members[members].cumsum(0) - 1
    # 80 : 20 as train and val of VTAB-1K; by order, so the parts depend on no seed
    second = rank % HELD_OUT == HELD_OUT - 1
    return _part(split, ~second), _part(split, second)


def _part(split: Split, mask: "Tensor") -> Split:
    # mask (N,); indexing copies the images out of a memory map
    images, labels = split.images[mask], split.labels[mask]
    indices: list[int] = mask.nonzero().flatten().tolist()
    about = fingerprint(images, labels, str(split.fingerprint["format"]))
    files = split.files and tuple(split.files[index] for index in indices)
    return Split(images, labels, about, partial(_original, split, indices), files)


def _original(split: Split, indices: list[int], index: int) -> Image.Image:
    # no lambda: processes that augment may get the split by pickle
    return split.original(indices[index])
