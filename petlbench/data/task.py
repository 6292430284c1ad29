"""A task: one data set with its splits, as uint8 images and labels."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Fingerprint = dict[str, object]


@dataclass(frozen=True)
class Split:
    """Images (N, 3, H, W) uint8 and labels (N,) int64; memory-mapped tensors are welcome."""

    images: Tensor
    labels: Tensor
    fingerprint: Fingerprint

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """Splits are opened by name on demand, so a test set stays closed until training is over.

    `open` takes "train", "val", "trainval" or one of `tests`.
    """

    name: str
    title: str
    suite: str
    group: str
    classes: int
    tests: tuple[str, ...]
    open: Callable[[str], Split]


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


def concatenate(first: Split, second: Split) -> Split:
    """Two splits as one, for example train and val as trainval."""
    images = torch.cat([first.images, second.images])
    labels = torch.cat([first.labels, second.labels])
    return Split(images, labels, fingerprint(images, labels, str(first.fingerprint["format"])))


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
    return Split(images, labels, fingerprint(images, labels, str(split.fingerprint["format"])))
