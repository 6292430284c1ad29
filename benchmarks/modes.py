"""A training step in train.memory=min beside one in fast, in one process, taking turns."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.cases import ModeCase
from benchmarks.compare import WARMUP, Setting, clock, noise
from petlbench.cost.memory import TrainingStep
from petlbench.run import build
from petlbench.train.precision import Precision

MODES = ("min", "fast")


def compare(case: ModeCase, setting: Setting) -> dict[str, Any]:
    """Seconds of the measured steps in each mode, of one network with one optimiser."""
    config = setting.config(case.method, ())
    device = build.device(setting.device)
    torch.manual_seed(0)
    method = build.method(config).to(device)
    images = build.feed(config).prepare(noise(config, setting.batch).images.to(device))
    step = TrainingStep(method, Precision(setting.precision, device), config.train, images)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    now = partial(clock, device)
    for _ in range(WARMUP + setting.repeats):
        for mode in MODES:
            step.change(replace(config.train, memory=mode), images)
            started = now()
            step()
            seconds[mode].append(now() - started)
    measured = {mode: values[WARMUP:] for mode, values in seconds.items()}
    return {"name": case.name, "method": case.method, "bar": case.bar, "seconds": measured}
