"""A task: one data set with its splits, as uint8 images and labels."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from petlbench.data.readers.lists import Listed

Fingerprint = dict[str, object]


@dataclass(frozen=True)
class Split:
    """Images (N, 3, H, W) uint8 and labels (N,) int64; memory-mapped tensors are welcome.

    file: the image of a place as it was before it was resized; None where there is no other.
    """

    images: Tensor
    labels: Tensor
    fingerprint: Fingerprint
    file: Callable[[int], Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def original(self, place: int) -> Image.Image:
        """The image at its own size, RGB."""
        if self.file is not None:
            return self.file(place)
        return Image.fromarray(self.images[place].permute(1, 2, 0).contiguous().numpy())


@dataclass(frozen=True)
class Task:
    """Splits are opened by name on demand, so a test set stays closed until training is over.

    open: takes "train", "val", "trainval" or one of `tests`, as far as the task has them.
    parts: the two splits that one consists of, for a search inside training. names: of the
    classes, where the data tell them. listed: the files behind a split, by its name; empty where
    there are none. look: raises UserError where a split cannot be opened, as far as its list and
    the places of its images tell; it decodes nothing.
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
    listed: Mapping[str, Callable[[], Listed]] = field(default_factory=dict)
    look: Callable[[str], None] = lambda split: None


@dataclass(frozen=True)
class Score:
    """Top-1 accuracy: `correct` of `total` images."""

    correct: int
    total: int

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.correct / self.total


def fingerprint(images: Tensor, labels: Tensor, file_format: str) -> Fingerprint:
    """sha256 over the pixels and labels of a split, its label histogram and its file format."""
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
    """A split in two: every fifth image of each class is the second part."""
    places = torch.zeros_like(split.labels)
    for label in split.labels.unique():
        chosen = split.labels == label
        places[chosen] = torch.arange(int(chosen.sum()))
    second = places % 5 == 4
    return _part(split, ~second), _part(split, second)


def _part(split: Split, chosen: Tensor) -> Split:
    images, labels = split.images[chosen], split.labels[chosen]
    kept: list[int] = chosen.nonzero().flatten().tolist()
    made = fingerprint(images, labels, str(split.fingerprint["format"]))
    return Split(images, labels, made, lambda place: split.original(kept[place]))
