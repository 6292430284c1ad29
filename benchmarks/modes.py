"""A training step in train.memory=min beside one in fast, in one process, taking turns."""

from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.cases import ModeCase
from benchmarks.compare import Setting, clock
from benchmarks.steps import in_turns, step_of

MODES = ("min", "fast")


def compare(case: ModeCase, setting: Setting) -> dict[str, Any]:
    """Seconds of the measured steps in each mode, of one network with one optimiser."""
    train = setting.config(case.method, ()).train
    step = step_of(setting, case.method)

    def in_mode(mode: str) -> None:
        step.change(replace(train, memory=mode), step.images)
        step()

    forms = {mode: partial(in_mode, mode) for mode in MODES}
    seconds = in_turns(forms, setting.repeats, partial(clock, step.images.device))
    return {"name": case.name, "method": case.method, "bar": case.bar, "seconds": seconds}
