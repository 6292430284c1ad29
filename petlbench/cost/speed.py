"""Images per second, in training and in inference, on batches that lie on the device."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from petlbench.cost.memory import TrainingStep
from petlbench.train.precision import Precision


def training(step: TrainingStep, *, warmup: int, steps: int) -> float:
    """Images/s of `steps` training steps after `warmup` others."""
    for _ in range(warmup):
        step()
    return len(step.images) * steps / _seconds(step, steps, step.images.device)


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
    """Median images/s over repeats of forward passes.

    network: in eval mode, on the device. Each repeat takes about `repeat_s` seconds and at least
    one pass; spread is the distance of the quartiles. A batch that does not fit in memory or a
    network that does not compile has no speed, and a `reason`.
    """
    device = precision.device

    def forward() -> None:
        with precision.autocast():
            network(images)

    try:
        images = torch.rand(batch, 3, size, size, device=device)
        _seconds(forward, 2, device)  # warms up; a compiled network is compiled here
        passes = max(1, round(repeat_s / _seconds(forward, 1, device)))
        found = [batch * passes / _seconds(forward, passes, device) for _ in range(repeats)]
    except RuntimeError as error:  # that of torch.compile and of memory too
        line = (str(error).splitlines() or [""])[0]
        return {"batch": batch, "images_per_s": None, "reason": f"{type(error).__name__}: {line}"}
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
