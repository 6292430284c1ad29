"""What the walk calls in the place of its constant parts, and outputs that are not stored."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from petlbench.model.stage import Block
from petlbench.train.parts import Link, Part
from petlbench.train.precision import Precision

# What says nothing of the numbers in a tensor.
PROPERTIES = ("shape", "dtype", "device", "ndim", "requires_grad", "grad_fn", "is_leaf", "is_cuda")
METHODS = ("size", "dim", "numel", "__len__", "is_floating_point")
NEW = ("new_zeros", "new_ones", "new_empty", "new_full")
OF_THE_SHAPE = {
    *(getattr(Tensor, name).__get__ for name in PROPERTIES),
    *(getattr(Tensor, name) for name in (*METHODS, *NEW)),
}


class StandIn:
    """A part that returns a known output for a known input, and computes all others.

    known: the images of a batch, then the outputs of the links for them; empty if there is none.
    """

    def __init__(self, link: Link, index: int, known: list[Tensor]) -> None:
        self.part = link.part.call
        self.index = index
        self.known = known

    def __call__(self, z: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)"""
        # By identity: a method may also call the part with something else.
        if self.known and z is self.known[self.index]:
            return self.known[self.index + 1]
        return self.part(z)


def stand_ins(parts: Sequence[Part], links: Sequence[Link], known: list[Tensor]) -> list[Block]:
    """What the walk calls instead of its parts."""
    blocks: list[Block] = [part.call for part in parts]
    for index, link in enumerate(links):
        blocks[link.position] = StandIn(link, index, known)
    return blocks


class Unread(Tensor):
    """In place of an output that is not stored: it takes no memory, and is computed if read."""

    compute: Callable[[], Tensor]
    value: Tensor | None

    @staticmethod
    def of(shape: Sequence[int], like: Tensor, compute: Callable[[], Tensor]) -> "Unread":
        """shape: of the output, whose type and device are those of `like`."""
        # What reads it past torch's functions gets numbers that show in the loss.
        nan = torch.full((), math.nan, dtype=like.dtype, device=like.device).expand(*shape)
        made = nan.as_subclass(Unread)
        made.compute, made.value = compute, None
        return made

    def read(self) -> Tensor:
        """The output itself."""
        if self.value is None:
            self.value = self.compute()
        return self.value

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Hook of torch, called for every function that gets such a tensor."""
        if func not in OF_THE_SHAPE:
            args, kwargs = tree_map_only(Unread, Unread.read, (args, kwargs or {}))
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def chain(
    links: Sequence[Link], images: Tensor, stored: Mapping[int, Tensor], precision: Precision
) -> list[Tensor]:
    """Images, and the output of each link for them.

    stored: outputs by the number of their link; the others are computed if they are read.
    """
    known = [images]
    for index, link in enumerate(links):
        shape = (len(images), *link.output.shape[1:])
        output = stored.get(index)
        computed = partial(_computed, link, known[-1], precision)
        known.append(Unread.of(shape, link.output, computed) if output is None else output)
    return known


def _computed(link: Link, z: Tensor, precision: Precision) -> Tensor:
    with torch.no_grad(), precision.autocast():
        return link.part.call(z)
