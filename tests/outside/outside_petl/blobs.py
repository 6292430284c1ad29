"""A data set that makes its images: the label is the channel of a bright blob."""

from functools import partial

import torch

from petlbench.data.images import View
from petlbench.data.task import Split, Task, fingerprint

IMAGES = {"train": 24, "val": 8, "trainval": 32, "test": 16}


def load(
    *, name: str, title: str, suite: str, group: str, classes: int, noise: int, view: View
) -> Task:
    """A task of 48 images. noise: brightest value of the background, 0 to 255."""
    return Task(name, title, suite, group, classes, ("test",), partial(_split, classes, noise))


def _split(classes: int, noise: int, name: str) -> Split:
    count = IMAGES[name]
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, noise + 1, (count, 3, 48, 48), generator=generator)
    pixels[torch.arange(count), labels, 12:36, 12:36] = 255
    images = pixels.to(torch.uint8)
    return Split(images, labels, fingerprint(images, labels, "made by a package"))
