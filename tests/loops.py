"""Training loops of several test files: on bright images, and on noise with a tiny network."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petlbench import registry
from petlbench.data.augment import Augmentation
from petlbench.data.feed import Feed
from petlbench.data.images import View
from petlbench.data.preparation import Preparation
from petlbench.data.task import Split, fingerprint, held_out
from petlbench.delta import delta_tensors, trained
from petlbench.method import Method
from petlbench.model.backbone import create
from petlbench.testing.networks import CLASSES, SIZE
from petlbench.train.trainer import TrainingLoop
from tests.helpers import unsaved
from tests.settings import train, vit_mini

CPU = torch.device("cpu")
VIEW = View(size=48, interpolation="bicubic", resize=None, aspect="squash")
TINY_VIEW = View(size=SIZE, interpolation="bicubic", resize=None, aspect="squash")


def bright(images: int, seed: int) -> Split:
    """Noise whose label is which channel is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % 2
    pixels = torch.randint(0, 100, (images, 3, 48, 48), generator=generator)
    pixels[labels == 1, 0] += 155
    pixels[labels == 0, 2] += 155
    pixels = pixels.to(torch.uint8)
    return Split(pixels, labels, fingerprint(pixels, labels, "test"))


def method(name: str = "lora", drop_path: float = 0.0) -> Method:
    torch.manual_seed(0)
    backbone = create(vit_mini(drop_path=drop_path, pretrained=False), classes=2, image_size=48)
    return registry.create(name, backbone)


def feed(augmentation: Augmentation | None = None, workers: int = 0) -> Feed:
    return Feed(
        device=CPU,
        prepare=Preparation(VIEW, mean=[0.5] * 3, std=[0.25] * 3),
        augmentation=augmentation,
        workers=workers,
        seed=0,
    )


def trainer(seed: int = 0, **changes: Any) -> TrainingLoop:
    arguments: dict[str, Any] = {
        "title": "a run",
        "feed": feed(),
        "fit": bright(36, seed=1),
        "select": {},
        "classes": 2,
        "keep_best": False,
        "every_epochs": None,
        "seed": seed,
        "train": train(),
        "on_epoch": lambda epoch: None,
        "halves": lambda: held_out(bright(36, seed=1)),
        "unfinished": unsaved(Path()),
    }
    return TrainingLoop(**arguments | changes)


def tensors(made: Method) -> list[Tensor]:
    return [value.detach().clone() for value in trained(made).values()]


def noise(images: int) -> Split:
    """Noise with arbitrary labels, of the size that tiny networks take."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, SIZE, SIZE), generator=generator).to(torch.uint8)
    labels = torch.arange(images) % CLASSES
    return Split(pixels, labels, fingerprint(pixels, labels, "test"))


def noise_feed(augmentation: Augmentation | None = None) -> Feed:
    prepare = Preparation(TINY_VIEW, mean=[0.5] * 3, std=[0.5] * 3)
    return Feed(device=CPU, prepare=prepare, augmentation=augmentation, workers=0, seed=0)


def noise_trainer(images: int, **changes: Any) -> TrainingLoop:
    """A trainer of a tiny method on so many images."""
    fit = noise(images)
    own: dict[str, Any] = {
        "feed": noise_feed(),
        "fit": fit,
        "classes": CLASSES,
        "halves": lambda: (fit, fit),
    }
    return trainer(**(own | changes))


def outcome(begun: TrainingLoop, made: Method) -> tuple[list[float], dict[str, Tensor], bool]:
    """Losses and tensors after a training, and whether outputs were replayed."""
    torch.manual_seed(5)  # for dropout
    begun.train(made)
    found = {name: value.detach().clone() for name, value in delta_tensors(made).items()}
    return [epoch.loss for epoch in begun.history], found, begun.prefix_cache is not None
