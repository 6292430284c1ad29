"""The forward pass of a training step: in a memory mode, and compiled if that is asked for."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from petlbench.config.nodes import Train
from petlbench.errors import first_line
from petlbench.train import last_block, recompute
from petlbench.train.hooks import StepHook
from petlbench.train.recompute import Held

log = logging.getLogger("petlbench")

Forward = Callable[[Tensor], Tensor]


class TrainingForward:
    """images (B, 3, H, W) -> logits (B, K), as `train.memory` and `train.compile` say.

    before_step: of the training; None for the method's own.
    """

    def __init__(
        self, method: nn.Module, train: Train, before_step: StepHook | None = None
    ) -> None:
        # A compiler takes no checkpoint in which modules change, as the short block's do.
        self.last: Held = nullcontext if train.compile else last_block.held(method, before_step)
        self.mode = recompute.held(method, train.memory)
        self.method: Forward = Compiled(method) if train.compile else method

    def __call__(self, images: Tensor) -> Tensor:
        with self.last(), self.mode():
            return self.method(images)

    @property
    def is_short(self) -> bool:
        """Whether the last block has computed the class token alone."""
        return isinstance(self.last, last_block.ShortWalk) and self.last.short.is_used


class Compiled:
    """A method as one graph of torch.compile, or as it is after a warning if there is no such."""

    def __init__(self, method: nn.Module) -> None:
        self.method = method
        # One graph for each size of a batch: an epoch has two sizes at most, and torch would
        # turn the second one into a variable, which not every method can have.
        self.compiled: Forward | None = torch.compile(method, fullgraph=True, dynamic=False)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K)"""
        if self.compiled is None:
            return self.method(images)  # type: ignore[no-any-return]
        try:
            with _backward_too():
                return self.compiled(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise all kinds
            log.warning("train.compile has no effect: %s", _reason(error))
            self.compiled = None
            return self.method(images)  # type: ignore[no-any-return]


def _backward_too() -> AbstractContextManager[object]:
    """Compile backward with forward, so that it cannot fail when the forward pass is done."""
    from torch._functorch import config  # imports the compiler

    return cast(
        AbstractContextManager[object], config.patch(force_non_lazy_backward_lowering=True)
    )


def _reason(error: BaseException) -> str:
    """The innermost error in one line: torch wraps those of its compilers."""
    from torch._inductor.exc import InvalidCxxCompiler  # imports the compiler

    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, InvalidCxxCompiler):
        return "there is no C++ compiler on this machine"
    return f"{type(error).__name__}: {first_line(error)}"
