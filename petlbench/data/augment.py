"""Random changes of training images, by timm's transforms, as the published scripts call them."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torch.utils.data import Dataset

from petlbench.data.images import View
from petlbench.data.task import Split
from petlbench.errors import UserError, unknown

KEYS = ("scale", "ratio", "interpolation", "hflip", "color_jitter", "auto_augment", "erase")
Draw = tuple[int, int]  # the how-manieth image of the training, and its place in the split


class Augmentation:
    """An image of any size becomes (3, size, size) uint8; `erased` works on prepared batches.

    values: those of `input.augment`: `scale` and `ratio` of the random crop (null: none, the whole
    image is resized), `interpolation` of all that moves pixels, `hflip` (a probability),
    `color_jitter` (strength; without effect beside auto_augment, as in timm), `auto_augment` (a
    policy in timm's notation, or null), `erase` (probability of random erasing with noise).
    """

    def __init__(self, values: Mapping[str, Any], view: View, *, mean: Sequence[float]) -> None:
        for key in values:
            if key not in KEYS:
                raise unknown("key of input.augment", key, KEYS)
        if missing := [key for key in KEYS if key not in values]:
            raise UserError(
                f"input.augment.{missing[0]} is missing; set it, or input.augment=null"
            )
        scale, ratio = values["scale"], values["ratio"]
        whole = View(view.size, values["interpolation"], None, "squash")
        try:
            self.transform = transforms_imagenet_train(
                view.size,
                scale=scale and tuple(scale),
                ratio=ratio and tuple(ratio),
                hflip=values["hflip"],
                color_jitter=values["color_jitter"],
                auto_augment=values["auto_augment"],
                interpolation=values["interpolation"],
                mean=tuple(mean),  # the grey that moved images leave behind
                use_prefetcher=True,  # ends with uint8: batches are normalised on the device
            )
        except (AssertionError, TypeError, ValueError) as error:
            why = str(error) or "no such policy"
            raise UserError(f"input.augment={dict(values)}: {why}") from error
        if scale is None:
            self.transform.transforms[0] = partial(_resized, whole)
        self.erase = values["erase"]

    def erased(self, images: Tensor) -> Tensor:
        """Random erasing (B, 3, H, W), after normalisation, with noise for each pixel."""
        if not self.erase:
            return images
        erase = RandomErasing(self.erase, mode="pixel", device=images.device)
        changed: Tensor = erase(images)
        return changed


def _resized(view: View, image: Image.Image) -> Image.Image:
    return Image.fromarray(view.of(image))


class Drawn(Dataset[tuple[Tensor, int]]):
    """Augmented images of a split; which change an image gets hangs on `seed` and its draw alone.

    So the images are the same, however many processes make them.
    """

    def __init__(self, split: Split, augmentation: Augmentation, seed: int) -> None:
        self.split = split
        self.augmentation = augmentation
        self.seed = seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        """(3, size, size) uint8, and the label."""
        number, place = draw
        with _random_state(self.seed, number):
            image: Tensor = self.augmentation.transform(self.split.original(place))
        return image, int(self.split.labels[place])


@contextmanager
def _random_state(*seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's generators start from `seed`, and are put back afterwards."""
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(start)
    np.random.seed(start)  # noqa: NPY002 -- timm's policies draw from it
    torch.default_generator.manual_seed(start)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
