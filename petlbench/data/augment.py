"""Random changes of training images, by timm's transforms, as the published scripts call them."""

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp, AutoAugment, posterize
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torch.utils.data import Dataset

from petlbench.config.nodes import Augment
from petlbench.data.images import View
from petlbench.data.task import Split
from petlbench.errors import UserError, first_line

Draw = tuple[int, int]  # running index of the draw in the training, index in the split


class Augmentation:
    """Random changes of an image -> (3, size, size) uint8; `erased` follows on batches.

    scale, ratio: of the random crop; without `scale` the whole image is resized. interpolation: of
    crop and geometric changes. hflip: a probability. color_jitter: strength; without effect beside
    auto_augment, as in timm. auto_augment: a policy in timm's notation. erase: probability of
    random erasing with noise. mean: of the backbone's normalisation.
    """

    def __init__(self, augment: Augment, view: View, *, mean: Sequence[float]) -> None:
        whole = View(view.size, augment.interpolation, None, "squash")
        _refuse_ignored(augment.auto_augment)
        try:
            self.transform = transforms_imagenet_train(
                view.size,
                scale=_pair(augment.scale),
                ratio=_pair(augment.ratio),
                hflip=augment.hflip,
                color_jitter=augment.color_jitter or 0.0,
                auto_augment=augment.auto_augment,
                interpolation=augment.interpolation,
                mean=tuple(mean),  # fills the pixels that geometric changes uncover
                use_prefetcher=True,  # ends with uint8: batches are normalised on the device
            )
        except (AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
            reason = first_line(error)
            raise UserError(
                f"input.augment.auto_augment is {augment.auto_augment}; timm has no such policy "
                f"({reason})"
            ) from error
        for operation in _operations(self.transform.transforms):
            if operation.aug_fn is posterize:
                operation.aug_fn = _posterized
        if augment.scale is None:
            # timm always crops, in its first transform;
            # a partial, unlike a lambda, can be pickled for worker processes that are spawned
            self.transform.transforms[0] = partial(_resized, whole)
        self.erase = augment.erase

    def erased(self, images: Tensor) -> Tensor:
        """Random erasing of normalised images (B, 3, H, W) -> the same, with noise per pixel."""
        if not self.erase:
            return images
        # in place; unlike `Drawn` it draws from the generators of the process, seeded with the run
        erase = RandomErasing(self.erase, mode="pixel", device=images.device)
        changed: Tensor = erase(images)
        return changed


def _refuse_ignored(policy: str | None) -> None:
    """Refuse parts of a policy that timm would pass over: those without a number."""
    name, *parts = (policy or "").split("-")
    for part in parts:
        # of RandAugment `tNAMES` chooses operations
        if not re.search(r"\d", part) and not (name == "rand" and part.startswith("t")):
            raise UserError(
                f"input.augment.auto_augment is {policy}; timm would ignore '{part}', which has "
                "no number; write e.g. rand-m9-mstd0.5-inc1"
            )


def _operations(transforms: Sequence[Any]) -> Iterator[AugmentOp]:
    """The operations of a policy among timm's transforms: AutoAugment, RandAugment or AugMix."""
    for transform in transforms:
        if isinstance(transform, AutoAugment):
            yield from (operation for part in transform.policy for operation in part)
        else:
            yield from getattr(transform, "ops", ())


def _posterized(image: Image.Image, bits_to_keep: int, **others: Any) -> Image.Image:
    """Timm's posterize; black for less than a bit, which its increasing levels reach.

    So did Pillow until version 13, which raises ValueError.
    """
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    posterized: Image.Image = posterize(image, bits_to_keep, **others)
    return posterized


def _pair(values: list[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])


def _resized(view: View, image: Image.Image) -> Image.Image:
    return Image.fromarray(view.of(image))


class Drawn(Dataset[tuple[Tensor, int]]):
    """Augmented images of a split; an image's augmentation depends only on seed and draw.

    So the images are the same for any number of processes.
    """

    def __init__(self, split: Split, augmentation: Augmentation, seed: int) -> None:
        self.split = split
        self.augmentation = augmentation
        self.seed = seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        """(3, size, size) uint8, and the label."""
        number, index = draw
        with _random_state(self.seed, number):
            image: Tensor = self.augmentation.transform(self.split.original(index))
        return image, int(self.split.labels[index])


@contextmanager
def _random_state(*seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch, and restore their states afterwards."""
    # 32 bits, as np.random.seed takes no more; consecutive draws get unrelated seeds
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    # timm's crop and policies draw from `random`, torchvision's flip and jitter from torch
    random.seed(start)
    np.random.seed(start)  # noqa: NPY002 -- timm's policies draw from it
    # torch.manual_seed would also seed the GPUs, whose states are not restored
    torch.default_generator.manual_seed(start)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
