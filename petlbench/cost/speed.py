"""Images per second, in training and in inference."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from petlbench.cost.memory import TrainingStep
from petlbench.train.precision import Precision


def training(step: TrainingStep, *, warmup: int, steps: int) -> float:
    """Images/s of training steps on a batch that lies on the device."""
    device = step.images.device
    for _ in range(warmup):
        step()
    seconds = _seconds(step, steps, device)
    return len(step.images) * steps / seconds


@torch.inference_mode()
def inference(
    network: nn.Module,
    *,
    precision: Precision,
    size: int,
    batch: int,
    repeats: int,
    repeat_s: float,
) -> dict[str, Any]:
    """Median images/s over repeats of forward passes on a batch that lies on the device.

    network: in eval mode. Each repeat takes at least `repeat_s` seconds and one pass; spread is
    the distance of the quartiles. Out of memory is told as `reason`, with no speed.
    """
    device = precision.device
    try:
        images = torch.rand(batch, 3, size, size, device=device)

        def forward() -> None:
            with precision.autocast():
                network(images)

        _seconds(forward, 2, device)  # warms up; a compiled network is compiled here
        passes = max(1, round(repeat_s / _seconds(forward, 1, device)))
        found = [batch * passes / _seconds(forward, passes, device) for _ in range(repeats)]
    except torch.OutOfMemoryError:
        return {"batch": batch, "images_per_s": None, "reason": "out of memory"}
    return {
        "batch": batch,
        "images_per_s": statistics.median(found),
        "spread": spread(found),
        "repeats": repeats,
        "passes": passes,
    }


def spread(values: Sequence[float]) -> float:
    """Distance of the quartiles; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def _seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds that calling `work` so often takes, until the device is done with it."""
    _wait(device)
    begun = time.perf_counter()
    for _ in range(times):
        work()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
