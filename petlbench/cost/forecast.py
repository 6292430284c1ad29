"""The predicted peak memory of a training step on a GPU, from shapes alone."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from petlbench import interrupts
from petlbench.config.nodes import Train
from petlbench.cost import memory, shapes
from petlbench.cost.autocast import CudaRules
from petlbench.method import Method
from petlbench.train.frozen import frozen_in_16_bit
from petlbench.train.live_bytes import LiveBytes
from petlbench.train.precision import Precision

Live = TypeVar("Live", bound=LiveBytes)


def peak_mib(
    method: Method, *, precision: str, train: Train, batch: int, size: int
) -> dict[str, float]:
    """The peak of a step as `train` says; see `peaks_mib`."""
    [peaks] = peaks_mib(
        method,
        precision=precision,
        train=train,
        batches=[batch],
        size=size,
        modes=[train.memory],
    ).values()
    return peaks[0]


def peaks_mib(
    method: Method,
    *,
    precision: str,
    train: Train,
    batches: Sequence[int],
    size: int,
    modes: Sequence[str],
) -> dict[str, list[dict[str, float]]]:
    """For each memory mode the `peak_mib` of a training step with each number of images.

    They are split as by `memory.measured`, without `reserved`. precision: fp32, or bf16 for both
    16-bit formats. The peak is the largest total size of the tensors that exist at the same time
    during a step, each rounded up as by the allocator. Autocast follows CUDA's rules. The
    workspaces of CUDA's libraries are not included.
    """
    # Compilers need real tensors; the peak is that of a step that is not compiled.
    forms = [replace(train, memory=mode, compile=False) for mode in modes]
    with on_shapes(method, precision) as (copy, formats):
        first = torch.empty(min(batches), 3, size, size)
        step = memory.TrainingStep(copy, formats, forms[0], first)
        step()  # creates the optimiser's state
        return {
            form.memory: [_peak_mib(step, form, torch.empty(n, 3, size, size)) for n in batches]
            for form in forms
        }


@contextmanager
def on_shapes(method: Method, precision: str) -> Iterator[tuple[Method, Precision]]:
    """A copy of a method whose tensors, like all that are made inside, have no data.

    Its steps take the formats of `precision` by the rules of CUDA.
    """
    formats = Precision(precision, shapes.CPU)
    fake = FakeTensorMode()
    copy = shapes.empty_copy(method, shapes.CPU, fake)
    interruptible = interrupts.deferred()  # `LiveBytes` is full of callbacks of weakref
    with interruptible, fake, CudaRules(), _small_garbage(), frozen_in_16_bit(copy, formats):
        yield copy, formats


@contextmanager
def _small_garbage() -> Iterator[None]:
    """Collect only what is created inside: a look at every module takes longer than a step."""
    is_callers = gc.get_freeze_count() > 0  # and unfreeze would thaw what a caller has frozen
    gc.freeze()
    try:
        yield
    finally:
        if not is_callers:
            gc.unfreeze()


def _peak_mib(step: memory.TrainingStep, form: Train, images: Tensor) -> dict[str, float]:
    """Images: (B, 3, H, W), without data."""
    step.change(form, images)
    saved = step.saved_bytes()
    live = watched(step, LiveBytes())
    parts = memory.split(step.state_bytes(), saved=saved, allocated=live.peak)
    return memory.in_mib(parts)


def watched(step: memory.TrainingStep, live: Live) -> Live:
    """`live`, which has seen a step and what existed before it."""
    gc.collect()  # else cycles of an earlier step count as live
    with live:
        live.note([*step.method.parameters(), *step.method.buffers(), step.images, step.labels])
        for state in step.optimiser.state.values():
            live.note(value for value in state.values() if isinstance(value, Tensor))
        live.note(t.grad for t in step.method.parameters() if t.grad is not None)
        step()
    return live
