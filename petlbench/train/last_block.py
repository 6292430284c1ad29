"""The last block, computed for the class token alone where nothing reads its other tokens.

Its attention has the keys and values of all tokens; the query, the projection, the MLP and what a
method adds to them see one token. No method declares that this is right: a trial finds it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from weakref import WeakKeyDictionary

from timm.models.vision_transformer import Block as TimmBlock
from torch import nn

from petlbench.method import Method
from petlbench.model.stage import Slot
from petlbench.train.class_token import ClassTokenBlock, last_place
from petlbench.train.hooks import StepHook, overridden
from petlbench.train.last_block_trial import passes
from petlbench.train.recompute import Held

# Copies without numbers, on which no trial can run, have the answer of their original.
_OF_COPIES: WeakKeyDictionary[Method, bool] = WeakKeyDictionary()


class ShortWalk:
    """Puts the short block into the walk, for a forward pass of training."""

    def __init__(self, slot: Slot, part: TimmBlock) -> None:
        self.slot = slot
        self.whole = slot.own()
        self.short = ClassTokenBlock(self.whole, part)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        # A replayed block stays: it has the whole block's outputs.
        if self.slot.get() is not self.whole:
            yield
            return
        self.slot.set(self.short)
        try:
            yield
        finally:
            self.slot.set(self.whole)


def held(method: nn.Module, before_step: StepHook | None = None) -> Held:
    """The short walk of a method, or no change if that is not enough.

    before_step: of the training; None for the method's own.
    """
    if not isinstance(method, Method) or not is_enough(method, before_step):
        return nullcontext
    place = last_place(method)
    return nullcontext if place is None else ShortWalk(*place)


def is_enough(method: Method, before_step: StepHook | None = None) -> bool:
    """Whether the class token of the last block is all that a training of the method reads."""
    # A hook may change what the network reads, or read it itself.
    if (
        method.backbone.pool != "cls"
        or overridden(method, before_step)
        or last_place(method) is None
    ):
        return False
    if method not in _OF_COPIES:
        return passes(method)
    return _OF_COPIES[method]


def copied(method: Method, copy: Method) -> None:
    """Note that `copy`, whose tensors have no numbers, is as `method`."""
    _OF_COPIES[copy] = is_enough(method)
