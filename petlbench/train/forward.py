"""The forward pass of a training step: in a memory mode, and compiled if that is asked for."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from petlbench.config.nodes import CUDA_GRAPHS, Train
from petlbench.errors import UserError, first_line
from petlbench.model.drop_path import FixedMasks
from petlbench.train import last_block, recompute
from petlbench.train.hooks import StepHook
from petlbench.train.recompute import Held

log = logging.getLogger("petlbench")

Forward = Callable[[Tensor], Tensor]


def check(train: Train, device: torch.device) -> None:
    """Raise UserError if the device cannot do what `train.compile` says."""
    if train.compile == CUDA_GRAPHS and device.type != "cuda":
        raise UserError(
            f"train.compile={CUDA_GRAPHS} needs a CUDA device; set device=cuda or "
            "train.compile=true"
        )


def without_graphs(train: Train) -> Train:
    """The same training without CUDA graphs: torch's statistics of memory miss their replays."""
    return replace(train, compile=bool(train.compile))


class TrainingForward:
    """images (B, 3, H, W) -> logits (B, K), as `train.memory` and `train.compile` say.

    before_step: of the training; None for the method's own. Raises UserError if the device of the
    method cannot do it.
    """

    def __init__(
        self, method: nn.Module, train: Train, before_step: StepHook | None = None
    ) -> None:
        check(train, next(method.parameters()).device)
        # A compiler takes no checkpoint in which modules change, as the short block's do.
        self.last: Held = nullcontext if train.compile else last_block.held(method, before_step)
        self.mode = recompute.held(method, train.memory)
        self.method: Forward = COMPILERS[train.compile](method)

    def __call__(self, images: Tensor) -> Tensor:
        with self.last(), self.mode():
            return self.method(images)

    def end(self) -> None:
        """Free the memory of CUDA graphs, which torch keeps for further replays."""
        if isinstance(self.method, Graphed):
            torch.compiler.reset()

    @property
    def is_short(self) -> bool:
        """Whether the last block has computed the class token alone."""
        return isinstance(self.last, last_block.ShortWalk) and self.last.short.is_used


class Compiled:
    """A method as one graph of torch.compile, or as it is after a warning if there is no such."""

    def __init__(self, method: nn.Module, mode: str | None = None) -> None:
        """mode: of torch.compile; None for its default."""
        self.method = method
        # One graph for each size of a batch: an epoch has two sizes at most, and torch would
        # turn the second one into a variable, which not every method can have.
        self.compiled: Forward | None = torch.compile(
            method, fullgraph=True, dynamic=False, mode=mode
        )
        self.is_alone = False

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K)"""
        if self.compiled is None:
            return self.method(images)  # type: ignore[no-any-return]
        try:
            with _backward_too():
                return self._called(self.compiled, images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise all kinds
            log.warning("train.compile has no effect: %s", _reason(error))
            self.compiled = None
            return self.method(images)  # type: ignore[no-any-return]

    def _called(self, compiled: Forward, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K), also if earlier methods have used up torch's graphs."""
        from torch._dynamo.exc import FailOnRecompileLimitHit  # imports the compiler

        try:
            return compiled(images)
        except FailOnRecompileLimitHit:  # torch allows a function eight in a process
            if self.is_alone:
                raise
            torch.compiler.reset()
            self.is_alone = True
            return compiled(images)


class Graphed(Compiled):
    """A compiled method whose kernels are replayed as CUDA graphs; called once a training step.

    https://docs.pytorch.org/docs/stable/user_guide/torch_compiler/torch.compiler_cudagraph_trees.html
    """

    def __init__(self, method: nn.Module) -> None:
        super().__init__(method, "reduce-overhead")
        self.masks = FixedMasks(method)
        self.skips: int | None = _skips()

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K), which no later step overwrites"""
        self.masks.take(len(images))
        torch.compiler.cudagraph_mark_step_begin()
        logits = super().__call__(images).clone()
        if self.skips is not None and _skips() > self.skips:
            log.warning(
                "train.compile=%s replays only a part, or nothing, and acts like true for the "
                "rest; torch's warning `skipping cudagraphs` says why",
                CUDA_GRAPHS,
            )
            self.skips = None
        return logits


COMPILERS: Mapping[bool | str, Callable[[nn.Module], Forward]] = {
    False: lambda method: method,
    True: Compiled,
    CUDA_GRAPHS: Graphed,
}


def _backward_too() -> AbstractContextManager[object]:
    """Compile backward with forward, so that it cannot fail when the forward pass is done."""
    from torch._functorch import config  # imports the compiler

    return cast(
        AbstractContextManager[object], config.patch(force_non_lazy_backward_lowering=True)
    )


def _skips() -> int:
    """How many graphs of this process torch has compiled, but does not record."""
    from torch._dynamo.utils import counters  # imports the compiler

    return counters["inductor"]["cudagraph_skips"]


def _reason(error: BaseException) -> str:
    """The innermost error in one line: torch wraps those of its compilers."""
    from torch._inductor.exc import InvalidCxxCompiler  # imports the compiler

    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, InvalidCxxCompiler):
        return "there is no C++ compiler on this machine"
    return f"{type(error).__name__}: {first_line(error)}"
