"""Prefix replay: outputs that are constant in training are computed once an image.

The blocks before the first trained tensor get the same inputs in every epoch. Their outputs are
computed once for all training images, stored, and given to the method in the place of blocks that
it calls as ever. docs/speed.md says when this is exact.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from petlbench.config.nodes import Train
from petlbench.data.feed import Batch, Feed, ahead
from petlbench.data.task import Split
from petlbench.method import Method
from petlbench.progress import progress
from petlbench.train.hooks import StepHook, overridden
from petlbench.train.output_store import CPU, STORE, Outputs, keys, limit_of
from petlbench.train.parts import Link, Part, calling, parts_of
from petlbench.train.precision import Precision
from petlbench.train.prefix import Examples, constant_links, read_links
from petlbench.train.stand_in import chain, stand_ins
from petlbench.units import GIB

OFF = (False, "off")  # yaml reads `off` as false
PLAIN = (*OFF, "auto")
log = logging.getLogger("petlbench")


class Replay:
    """The outputs of the prefix for the training steps of a method.

    stored: by the number of their link; those of other links are computed if they are read.
    """

    def __init__(
        self,
        method: Method,
        parts: Sequence[Part],
        links: Sequence[Link],
        stored: dict[int, Outputs],
        batch_size: int,
        precision: Precision,
    ) -> None:
        self.method = method
        self.parts = parts
        self.links = links
        self.stored = stored
        self.batch_size = batch_size
        self.precision = precision
        self.device = links[0].output.device
        self._known: list[Tensor] = []

    def batches(self, stream: Iterator[Batch], order: Iterable[Tensor]) -> Iterator[Batch]:
        """The same batches; while one is trained on, stand-ins know its outputs.

        order: the indices (B,) of the images of each batch.
        """
        outputs: Iterator[dict[int, Tensor]] = map(self._outputs, order)
        if any(one.values.device != self.device for one in self.stored.values()):
            # a thread gathers the next batch from main memory while the GPU works on this one
            outputs = ahead(outputs)
        for known, (images, labels) in zip(outputs, stream, strict=True):
            known_of = chain(self.links, images, known, self.precision) if known else []
            self._known[:] = known_of
            yield images, labels

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the method call stand-ins, in training steps alone."""
        try:
            with calling(self.method.backbone, stand_ins(self.parts, self.links, self._known)):
                yield
        finally:
            self._known.clear()

    @property
    def note(self) -> dict[str, Any]:
        """What the record says of it."""
        sizes = [outputs.size for outputs in self.stored.values()]
        here = {outputs.values.device for outputs in self.stored.values()}
        return {
            "blocks": sum(link.part.is_block for link in self.links),
            "outputs": len(sizes),
            "mb": round(sum(sizes) / 1e6, 3),
            "where": str(self.device) if here == {self.device} else "pinned",
        }

    def _outputs(self, places: Tensor) -> dict[int, Tensor]:
        """The stored ones, for the images `places` (B,); none if they are to be computed."""
        # a matrix product of another size may round differently: such a batch is computed
        if len(places) != self.batch_size:
            return {}
        return {index: kept.take(places, self.device) for index, kept in self.stored.items()}


@dataclass(frozen=True)
class Training:
    """What a replay depends on. title: for the progress."""

    title: str
    method: Method
    split: Split
    train: Train
    feed: Feed
    precision: Precision
    before_step: StepHook

    @property
    def gib(self) -> float | None:
        """The memory that the user allows; None if it is not said."""
        return None if self.train.prefix_cache in PLAIN else float(self.train.prefix_cache)


def replay(training: Training) -> Replay | None:
    """The replay of a training, with all outputs computed; None if there is none.

    A memory that the user allows, and that is of no use, costs a warning.
    """
    method, train = training.method, training.train
    place = next(method.parameters()).device
    # also where nothing is replayed: this training may need the memory of the ones before it
    if len(STORE):
        STORE.shrink(place, limit_of(place, training.gib, STORE))
    if train.prefix_cache in OFF:
        return None
    reason = _reason(training)
    if reason is None:
        method.train()
        examples = Examples(method, training.precision)
        parts = parts_of(method.backbone)
        links = constant_links(parts, examples)
        if links:
            read = read_links(parts, links, examples)
            stored = _stored(training, links, read)
            if stored is None:
                return None
            return Replay(method, parts, links, stored, train.batch_size, training.precision)
        reason = "no block has a constant output"
    if training.gib is not None:
        log.warning("train.prefix_cache=%s has no effect: %s", train.prefix_cache, reason)
    return None


def _reason(training: Training) -> str | None:
    """Why the outputs are not constant, or not used twice."""
    train, method = training.train, training.method
    hooks = overridden(method, training.before_step)
    reasons = {
        "training images are augmented": training.feed.augmentation is not None,
        "training images are mixed": train.mixup or train.cutmix,
        "the training step is compiled": train.compile,
        "there is one epoch": train.epochs == 1,
        "there are fewer images than in a batch": len(training.split) < train.batch_size,
        f"the network may change in {' and '.join(hooks)}": hooks,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _stored(
    training: Training, links: Sequence[Link], read: Sequence[int]
) -> dict[int, Outputs] | None:
    """The outputs of the links that are read, by their numbers; None if they take too much."""
    names = _names(training, links)
    found = {index: STORE.find(name) for index, name in names.items() if index in read}
    stored = {index: outputs for index, outputs in found.items() if outputs is not None}
    missing = [index for index in read if index not in stored]
    if missing:
        made = _room_for(training, {index: links[index] for index in missing}, stored)
        if made is None:
            return None
        _fill(training, links, made)
        STORE.add({names[index]: outputs for index, outputs in made.items() if index in names})
        stored |= made
    return {index: stored[index] for index in read}


def _names(training: Training, links: Sequence[Link]) -> dict[int, str]:
    """The keys in the store, by the number of the link; none if other trainings cannot share."""
    backbone, feed = training.method.backbone, training.feed
    data = training.split.fingerprint.get("sha256")
    if data is None or not all(link.part.is_plain for link in links):
        return {}
    prepare = feed.prepare
    about = (
        *(data, prepare.size, prepare.interpolation, prepare.mean.tolist(), prepare.std.tolist()),
        *(backbone.tag, backbone.image_size, backbone.attention, links[0].output.device),
        # the last bits of an output may depend on them
        *(training.precision.name, training.train.batch_size, torch.get_num_threads()),
    )
    return dict(enumerate(keys(links, about)))


def _room_for(
    training: Training, links: Mapping[int, Link], stored: Mapping[int, Outputs]
) -> dict[int, Outputs] | None:
    """Empty memory for the outputs of links: on the device, or else in main memory."""
    images, device = len(training.split), next(iter(links.values())).output.device
    size = images * sum(link.output[0].nbytes for link in links.values())
    for place in dict.fromkeys((device, CPU)):
        limit = limit_of(place, training.gib, STORE)
        if STORE.make_room(size, place, limit, list(stored.values())):
            with suppress(RuntimeError):  # torch's error where the system refuses the memory
                return {i: Outputs(images, link.output, place) for i, link in links.items()}
    level = logging.INFO if training.gib is None else logging.WARNING
    log.log(
        level,
        "the prefix is computed in every epoch: its %d outputs take %.2f GiB, and the cache may "
        "take %.2f GiB (train.prefix_cache=%s)",
        *(len(links), size / GIB, limit / GIB, training.train.prefix_cache),
    )
    return None


def _fill(training: Training, links: Sequence[Link], made: Mapping[int, Outputs]) -> None:
    """Compute outputs for all images of the split."""
    images, size = len(training.split), training.train.batch_size
    # whole batches as in training, so that the bits are the same; the last one begins again
    order = (torch.arange(math.ceil(images / size) * size) % images).split(size)
    batches = training.feed.plain(training.split, order)
    title = f"{training.title}: outputs of frozen blocks"
    shown = progress(zip(order, batches, strict=True), title, len(order))
    for places, (z, _) in shown:
        with training.precision.autocast():
            for index, link in enumerate(links[: max(made) + 1]):
                z = link.part.call(z)
                if index in made:
                    made[index].put(places, z)
