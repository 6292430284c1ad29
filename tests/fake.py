"""A task without files, for tests of training: bright channels, and a log of opened splits."""

from functools import partial

import torch

from petlbench.data.images import View
from petlbench.data.task import Split, Task, fingerprint

opened: list[str] = []


def load(*, name: str, title: str, suite: str, group: str, classes: int, view: View) -> Task:
    """24 training, 8 val and 16 test images; the label is the brightest of `classes` channels."""
    return Task(name, title, suite, group, classes, ("test",), partial(split, classes))


def split(classes: int, name: str) -> Split:
    opened.append(name)
    images = {"train": 24, "val": 8, "trainval": 32, "test": 16}[name]
    generator = torch.Generator().manual_seed(images)
    labels = torch.arange(images) % classes
    pixels = torch.randint(0, 60, (images, 3, 48, 48), generator=generator)
    pixels[torch.arange(images), labels] += 180
    pixels = pixels.to(torch.uint8)
    return Split(pixels, labels, fingerprint(pixels, labels, "made by a test"))
