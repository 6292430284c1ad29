"""Images per second, in training and in inference, on batches that lie on the device."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from petlbench.cost.memory import TrainingStep
from petlbench.train.precision import Precision

WARM_UP = 3  # passes: a CUDA graph is recorded in the second


def training(step: TrainingStep, *, warmup: int, steps: int, repeats: int) -> dict[str, float]:
    """Images/s: the median over repeats of `steps` training steps after `warmup` others.

    `train_images_per_s_spread` is the distance of the quartiles.
    """
    device, images = step.images.device, steps * len(step.images)
    seconds(step, warmup, device)
    found = [images / seconds(step, steps, device) for _ in range(repeats)]
    return {
        "train_images_per_s": statistics.median(found),
        "train_images_per_s_spread": spread(found),
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

    network: in eval mode, on the device. Each repeat takes about `repeat_s` seconds and at least
    one pass; spread is the distance of the quartiles. What fails by one of `failures` has no
    speed, and a `reason`.
    """
    device = precision.device

    def forward() -> None:
        with precision.autocast():
            network(images)

    try:
        images = torch.rand(batch, 3, size, size, device=device)
        passes = warmed_up(forward, repeat_s, device)  # a compiled network is compiled here
        found = [batch * passes / seconds(forward, passes, device) for _ in range(repeats)]
    except failures as error:
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


def warmed_up(work: Callable[[], object], repeat_s: float, device: torch.device) -> int:
    """How often to call `work` for about `repeat_s` seconds, at least once, after a warm-up."""
    seconds(work, WARM_UP, device)
    return max(1, round(repeat_s / seconds(work, 1, device)))


def seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
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
