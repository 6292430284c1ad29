"""Training steps of petlbench alone, and calls of one process that take turns.

A ratio of two calls that take turns does not depend on what else the machine does.
"""

import time
from collections.abc import Callable, Mapping

import torch

from benchmarks.compare import WARMUP, Setting, noise
from petlbench.cost.memory import TrainingStep
from petlbench.run import build
from petlbench.train.precision import Precision


def step_of(setting: Setting, name: str) -> TrainingStep:
    """A training step of a method with random weights, on images of noise."""
    config = setting.config(name, ())
    device = build.device(setting.device)
    torch.manual_seed(0)
    method = build.method(config).to(device)
    images = build.feed(config).prepare(noise(config, setting.batch).images.to(device))
    return TrainingStep(method, Precision(setting.precision, device), config.train, images)


def in_turns(
    forms: Mapping[str, Callable[[], object]],
    repeats: int,
    now: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of the measured calls of each form by the clock `now`."""
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(WARMUP + repeats):
        for form, call in forms.items():
            started = now()
            call()
            seconds[form].append(now() - started)
    return {form: values[WARMUP:] for form, values in seconds.items()}
