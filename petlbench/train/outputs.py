"""Outputs of a frozen part of a network, computed once an image."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from petlbench.data.feed import Feed
from petlbench.data.task import Split
from petlbench.method import Method
from petlbench.progress import progress
from petlbench.train.evaluation import fitting_batch
from petlbench.train.frozen import frozen_in_16_bit
from petlbench.train.precision import Precision
from petlbench.train.unfinished import Spent


class ImageOutputs:
    """split -> part(images) (N, ...) in fp32 on the CPU, and labels (N,), in the split's order.

    An image that several splits hold is computed once. method: its part is called in eval mode,
    without augmentation and gradients, in the precision of training. spent: counts the images.
    """

    def __init__(
        self,
        title: str,
        method: Method,
        part: Callable[[Tensor], Tensor],
        feed: Feed,
        precision: Precision,
        spent: Spent,
    ) -> None:
        self.title = title
        self.method = method
        self.part = part
        self.feed = feed
        self.precision = precision
        self.spent = spent
        self._known: dict[bytes, Tensor] = {}

    def __call__(self, split: Split) -> tuple[Tensor, Tensor]:
        digests = _digests(split)
        first = {digest: place for place, digest in enumerate(digests)}
        missing = [place for digest, place in first.items() if digest not in self._known]
        if missing:
            outputs = self._computed(split, torch.tensor(missing))
            self._known |= zip((digests[place] for place in missing), outputs, strict=True)
        self.spent.images_seen += len(missing)
        return torch.stack([self._known[digest] for digest in digests]), split.labels.clone()

    def _computed(self, split: Split, places: Tensor) -> list[Tensor]:
        """part(image) (...) in fp32 on the CPU for each of the places (N,) of a split."""
        outputs: list[Tensor] = []
        # not inference_mode: a method may keep the outputs as its tensors
        with torch.no_grad(), frozen_in_16_bit(self.method, self.precision):
            self.method.eval()
            # outside autocast, whose cache of weights must not hold those of a pass on shapes
            size = self.feed.prepare.size
            order = places.split(fitting_batch(self.part, self.precision, size))
            batches = self.feed.plain(split, order)
            for images, _ in progress(batches, f"{self.title}: outputs", len(order)):
                with self.precision.autocast():
                    outputs += self.part(images).float().cpu()
        return outputs


def _digests(split: Split) -> list[bytes]:
    """Of the pixels of each image."""
    return [hashlib.sha256(image.contiguous().numpy().data).digest() for image in split.images]
