"""Batches for the network: from the device, from the pixel cache, or augmented by processes."""

import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from petlbench import gpu_memory
from petlbench.data.augment import Augmentation, Draw, Drawn
from petlbench.data.preparation import Preparation
from petlbench.data.task import Split
from petlbench.system import cpu_count

MOST_PROCESSES = 16
SHARE = 0.25  # of a GPU's free memory that a training set may take
Batch = tuple[Tensor, Tensor]  # prepared images (B, 3, H, W) and labels (B), on the device
T = TypeVar("T")


class Feed:
    """Batches of a split by the indices of their images.

    workers: processes that augment, or "auto". seed: of the augmentation.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        prepare: Preparation,
        augmentation: Augmentation | None,
        workers: int | str,
        seed: int,
    ) -> None:
        self.device = device
        self.prepare = prepare
        self.augmentation = augmentation
        self.workers = _processes(workers)
        self.seed = seed

    def training(self, split: Split, batches: Iterable[Tensor], drawn: int = 0) -> Iterator[Batch]:
        """Batches to train on: augmented, if there is an augmentation.

        batches: indices (B,) -> images (B, 3, size, size) and labels (B,). drawn: the number of
        images that came before them in this training.
        """
        if self.augmentation is None:
            yield from self.plain(split, batches)
            return
        loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            Drawn(split, self.augmentation, self.seed),
            # a worker process cannot know how many images were drawn before its batch
            batch_sampler=_Numbered(batches, drawn),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(self.seed),  # not the network's
            worker_init_fn=_quiet,
        )
        for images, labels in loader:
            prepared = self.prepare(images.to(self.device, non_blocking=True))
            yield self.augmentation.erased(prepared), self._soon(labels)

    def plain(self, split: Split, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """Batches without augmentation; the split is moved to the device if it fits there."""
        images, labels = split.images, split.labels.to(self.device)
        # one copy for all epochs: each batch is then gathered on the device
        if self._fits(images):
            images = images.to(self.device)
            for places in batches:
                here = self._soon(places)
                yield self.prepare(images[here]), labels[here]
        else:
            for places, part in ahead((places, self._sent(images[places])) for places in batches):
                yield self.prepare(part), labels[self._soon(places)]

    def in_order(self, split: Split, size: int) -> Iterator[Batch]:
        """The whole split in its order, read one batch ahead."""
        for part, images in ahead(self.pixels(split, size)):
            yield self.prepare(images), self._soon(split.labels[part])

    def pixels(self, split: Split, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Parts of a split and their uint8 images on the device.

        Memory-mapped pages are read here. Two buffers take turns, so on the CPU a batch is good
        until the next but one is asked for.
        """
        shape = (min(size, len(split)), *split.images.shape[1:])
        pinned = self.device.type == "cuda"
        # two: `in_order` reads one while `ahead` already fills the other
        buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        for number, start in enumerate(range(0, len(split), size)):
            part = slice(start, start + size)
            images = split.images[part]
            yield part, buffers[number % 2][: len(images)].copy_(images).to(self.device)

    def _soon(self, few: Tensor) -> Tensor:
        """A small tensor on the device, without waiting for the steps before it."""
        # CUDA copies pageable memory before the call returns; a copy that blocks waits for all
        # that the device has to do.
        return few.to(self.device, non_blocking=True)

    def _fits(self, images: Tensor) -> bool:
        if self.device.type != "cuda":
            return True
        # an element is a byte
        return images.numel() <= SHARE * gpu_memory.available(self.device)

    def _sent(self, images: Tensor) -> Tensor:
        """A copy on the device: memory-mapped pages are read here."""
        if self.device.type == "cuda":
            return images.pin_memory().to(self.device, non_blocking=True)
        return images.clone()


class _Numbered:
    """Batches of (running index of the draw, index of the image), for a loader's processes."""

    def __init__(self, batches: Iterable[Tensor], first: int) -> None:
        self.batches = batches
        self.first = first

    def __iter__(self) -> Iterator[list[Draw]]:
        number = self.first
        for batch in self.batches:
            places: list[int] = batch.tolist()
            # an image has another number in each epoch, hence another augmentation
            yield list(enumerate(places, number))
            number += len(places)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items in their order; a thread prepares the next one meanwhile."""
    # a StopIteration out of result() would become a RuntimeError in a generator (PEP 479)
    end = object()
    # one thread: a generator cannot be advanced by two at once
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def _quiet(_: int) -> None:
    """Let a signal to all processes end a worker without a word: its parent reports it."""
    # torch would raise an error in the parent for a worker that a signal has killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent ends its workers
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # of timeout, Slurm or systemd


def _processes(workers: int | str) -> int:
    if workers == "auto":
        return min(cpu_count(), MOST_PROCESSES)
    return int(workers)
