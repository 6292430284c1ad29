"""Images per second of training and of inference, on batches that are on the device."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from petlbench.cost.memory import TrainingStep
from petlbench.train.precision import Precision

WARM_UP = 3  # passes; the second records a CUDA graph


def training(step: TrainingStep, *, warmup: int, steps: int, repeats: int) -> dict[str, float]:
    """Images/s: the median over repeats of `steps` training steps after `warmup` others.

    `train_images_per_s_spread` is the interquartile range.
    """
    device, images = step.images.device, steps * len(step.images)
    seconds(step, warmup, device)
    rates = [images / seconds(step, steps, device) for _ in range(repeats)]
    return {
        "train_images_per_s": statistics.median(rates),
        "train_images_per_s_spread": spread(rates),
    }


@torch.inference_mode()
def inference(
    network: nn.Module,
    *,
    precision: Precision,
    size: int,
    batch: int,
    repeats: int,
    repeat_s: float,
    failures: type[Exception],
) -> dict[str, Any]:
    """Median images/s over repeats of forward passes.

    network: in eval mode, on the device; called on (batch, 3, size, size). Each repeat takes about
    `repeat_s` seconds and at least one pass; spread is the interquartile range. If an exception of
    type `failures` is raised, images_per_s is None and `reason` has its message.
    """
    device = precision.device

    def forward() -> None:
        with precision.autocast():
            network(images)

    try:
        # Inside the try, because the batch itself may not fit.
        images = torch.rand(batch, 3, size, size, device=device)
        passes = warmed_up(forward, repeat_s, device)  # a compiled network is compiled here
        rates = [batch * passes / seconds(forward, passes, device) for _ in range(repeats)]
    except failures as error:
        line = (str(error).splitlines() or [""])[0]
        return {"batch": batch, "images_per_s": None, "reason": f"{type(error).__name__}: {line}"}
    return {
        "batch": batch,
        "images_per_s": statistics.median(rates),
        "spread": spread(rates),
        "repeats": repeats,
        "passes": passes,
    }


def spread(values: Sequence[float]) -> float:
    """Interquartile range; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def warmed_up(work: Callable[[], object], repeat_s: float, device: torch.device) -> int:
    """Warm up, then return how many calls of `work` take about `repeat_s` seconds, at least 1."""
    seconds(work, WARM_UP, device)
    return max(1, round(repeat_s / seconds(work, 1, device)))


def seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds of `times` calls of `work`, until the device has finished them."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # kernels run after the calls that start them have returned
