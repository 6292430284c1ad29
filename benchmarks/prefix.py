"""How much of a training prefix replay can save: the share of the constant blocks in a step.

    python -m benchmarks.prefix
    python -m benchmarks.prefix lora vpt_deep --backbone vit_b16 --batch 8

CPU seconds of a training step, and of the blocks whose outputs are constant in it, taking turns on
one thread. One of E epochs computes these blocks: replay leaves 1 - share (1 - 1 / E) of the time.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from benchmarks.compare import Setting
from benchmarks.steps import in_turns, step_of
from petlbench.cost.memory import TrainingStep
from petlbench.train.parts import parts_of
from petlbench.train.prefix import Examples, constant_links

METHODS = ("linear", "lst", "dtl", "dtl_plus")
EPOCHS = (10, 100)


def prefix(step: TrainingStep) -> Callable[[], Tensor]:
    """A function that computes the output of the constant blocks of a training step."""
    examples = Examples(step.method, step.precision)
    links = constant_links(parts_of(step.method.backbone), examples)

    def call() -> Tensor:
        z = step.images
        with torch.no_grad():
            for link in links:
                z = link.part.call(z)
        return z

    return call


def lines(setting: Setting, names: Iterable[str]) -> Iterator[str]:
    """A line for each method."""
    for name in names:
        step = step_of(setting, name)
        seconds = in_turns({"step": step, "prefix": prefix(step)}, setting.repeats)
        pairs = zip(seconds["prefix"], seconds["step"], strict=True)
        share = statistics.median(part / whole for part, whole in pairs)
        whole = statistics.median(seconds["step"])
        left = ", ".join(f"{1 - share * (1 - 1 / e):.2f} in {e} epochs" for e in EPOCHS)
        yield f"{name}: step {whole * 1e3:.1f} ms, share {share:.2f}; left {left}"


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prefix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("methods", nargs="*", default=METHODS, metavar="METHOD")
    parser.add_argument("--backbone", default="vit_mini")
    parser.add_argument("--batch", type=int, default=32, help="images of a step (default: 32)")
    parser.add_argument("--repeats", type=int, default=30, help="measured turns (default: 30)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = (f"backbone={options.backbone}",)
    setting = Setting(network, options.batch, options.repeats, "cpu", "fp32")
    for line in lines(setting, options.methods):
        print(line, flush=True)


if __name__ == "__main__":
    main()
