"""What DTL's side state as codes costs a training step, and what it is that costs it.

    python -m benchmarks.side_state

CPU seconds of a training step on vit_mini, 32 images, one thread, without replay; three forms take
turns: the running sum h + z a c in plain autograd, the codes with the state computed again in
backward (petlbench), and the codes with all that autograd keeps. Ratios are to the running sum.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.compare import Setting
from benchmarks.steps import in_turns, step_of
from petlbench.layers import side_state
from petlbench.methods.dtl import DTL

METHODS = ("dtl", "dtl_plus")


def running_sum(self: DTL, z: Tensor) -> Tensor:
    """`DTL.features` with the side state as one tensor, which autograd keeps."""
    for stage in self.backbone.stages:
        z = stage.enter(z)
        h = z.new_zeros(())  # grows to the shape of z at the first extraction
        for number, block in enumerate(stage.blocks, stage.first):
            if number in self.extracting:
                h = h + self.side[str(number)](z)
            z = block(z)
            if number >= self.inject_from:
                z = z + self.theta(h, stage)
    return z


def kept(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """function(*tensors), in the place of `called_again`."""
    return function(*tensors)


def forms(step: Callable[[], object]) -> dict[str, Callable[[], object]]:
    """A step of DTL with each form of its side state."""

    def changed(owner: Any, name: str, value: object) -> Callable[[], object]:
        def call() -> None:
            with patch.object(owner, name, value):
                step()

        return call

    return {
        "running sum": changed(DTL, "features", running_sum),
        "computed again": step,
        "kept": changed(side_state, "called_again", kept),
    }


def line(setting: Setting, name: str) -> str:
    """Median ratios of a method, with their quartiles."""
    seconds = in_turns(forms(step_of(setting, name)), setting.repeats)
    parts = []
    for form in ("computed again", "kept"):
        pairs = zip(seconds[form], seconds["running sum"], strict=True)
        low, middle, high = statistics.quantiles([a / b for a, b in pairs])
        parts.append(f"{form} {middle:.3f} [{low:.3f}, {high:.3f}]")
    return f"{name}: {'; '.join(parts)}"


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_state",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backbone", default="vit_mini")
    parser.add_argument("--batch", type=int, default=32, help="images of a step (default: 32)")
    parser.add_argument("--repeats", type=int, default=40, help="measured turns (default: 40)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = (f"backbone={options.backbone}",)
    setting = Setting(network, options.batch, options.repeats, "cpu", "fp32")
    for name in METHODS:
        print(line(setting, name), flush=True)


if __name__ == "__main__":
    main()
