"""What the lean layers and the side state as codes cost a training step of DTL.

    python -m benchmarks.side_state

CPU seconds of a training step on vit_mini, 32 images, one thread, without replay. Four forms take
turns: torch's layers and the running sum h + z a c in plain autograd, with which the other three
are compared; petlbench's layers and this sum; codes with all that autograd keeps of them; codes
with the state computed again in backward, which is petlbench's own form.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.compare import Setting
from benchmarks.steps import in_turns, step_of
from petlbench.cost.memory import TrainingStep
from petlbench.layers import side_state
from petlbench.layers.lean import lean, plain
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


@contextmanager
def plain_layers(method: nn.Module) -> Iterator[None]:
    """The method with the layers of torch and timm."""
    plain(method)
    try:
        yield
    finally:
        lean(method)


def forms(step: TrainingStep) -> dict[str, Callable[[], object]]:
    """A step of DTL with each form of its layers and of its side state."""
    with_sum = partial(patch.object, DTL, "features", running_sum)
    with_all = partial(patch.object, side_state, "called_again", kept)
    layers = partial(plain_layers, step.method)
    changes: dict[str, tuple[Callable[[], AbstractContextManager[object]], ...]] = {
        "plain layers, running sum": (layers, with_sum),
        "running sum": (with_sum,),
        "codes, kept": (with_all,),
        "codes, computed again": (),
    }

    def changed(*parts: Callable[[], AbstractContextManager[object]]) -> None:
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(part())
            step()

    return {name: partial(changed, *parts) for name, parts in changes.items()}


def lines(setting: Setting, name: str) -> Iterator[str]:
    """Median ratios of a method to its first form, with their quartiles."""
    seconds = in_turns(forms(step_of(setting, name)), setting.repeats)
    first, *others = seconds
    yield f"{name}: {first} {statistics.median(seconds[first]) * 1e3:.1f} ms"
    for form in others:
        pairs = zip(seconds[form], seconds[first], strict=True)
        low, middle, high = statistics.quantiles([a / b for a, b in pairs])
        yield f"  {form}: {middle:.3f} [{low:.3f}, {high:.3f}]"


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
        print(*lines(setting, name), sep="\n", flush=True)


if __name__ == "__main__":
    main()
