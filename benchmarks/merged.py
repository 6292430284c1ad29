"""Networks of finished runs as they were trained and merged: equal classes, and CPU seconds.

    python -m petlbench -m method=lora,ssf,fact_tk dataset=mini/digits results.root=RUNS
    python -m benchmarks.merged RUNS/mini/digits/*.safetensors

Both forms classify the test images of the run, taking turns, in fp32 and under autocast in bf16.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from petlbench.commands import predictor
from petlbench.config import compose
from petlbench.data.feed import Feed
from petlbench.data.task import Split
from petlbench.merge import merged
from petlbench.run import build, splits
from petlbench.train.evaluation import USUAL
from petlbench.train.frozen import frozen_in_16_bit
from petlbench.train.precision import Precision

CPU = torch.device("cpu")
FACTORS = {"dataset": "task", "backbone": "backbone"}  # keys, and what records call them


class Forms:
    """The logits (N, K) in fp32 of a network as it was trained and merged, in one precision."""

    def __init__(self, networks: Mapping[str, nn.Module], precision: str) -> None:
        self.networks = networks
        self.precision = Precision(precision, CPU)
        self.logits: dict[str, Tensor] = {}
        self.seconds: dict[str, list[float]] = {form: [] for form in networks}

    def classify(self, feed: Feed, split: Split, repeats: int) -> None:
        """Take turns on a split; the CPU seconds of the first turn do not count."""
        for _ in range(1 + repeats):
            for form, network in self.networks.items():
                started = time.process_time()
                self.logits[form] = self._classified(network, feed, split)
                self.seconds[form].append(time.process_time() - started)

    def _classified(self, network: nn.Module, feed: Feed, split: Split) -> Tensor:
        parts = []
        with frozen_in_16_bit(network, self.precision), torch.inference_mode():
            for images, _ in feed.in_order(split, USUAL):
                with self.precision.autocast():
                    parts.append(network(images).float())
        return torch.cat(parts)

    def lines(self, exact: Tensor) -> Iterator[str]:
        """The comparison; exact: logits of the trained network in fp32."""
        trained, merged = self.logits["trained"], self.logits["merged"]
        pairs = zip(self.seconds["merged"][1:], self.seconds["trained"][1:], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        yield f"{self.precision.name}: CPU seconds, merged / trained: {ratio:.2f}"
        best = exact.topk(2, 1).values
        margins = (best[:, 0] - best[:, 1])[merged.argmax(1) != trained.argmax(1)]
        yield f"  {len(margins)} of {len(exact)} classes differ; their margins: {margins.tolist()}"
        yield f"  largest difference of logits: {(merged - trained).abs().max():.1e}"
        rms = {form: (v - exact).square().mean().sqrt() for form, v in self.logits.items()}
        yield f"  rms to fp32: trained {rms['trained']:.4f}, merged {rms['merged']:.4f}"


def compared(file: Path, repeats: int) -> Iterator[str]:
    """The lines of one run."""
    record = json.loads(file.with_suffix(".json").read_text())
    given = [f"{key}={record['factors'][name]}" for key, name in FACTORS.items()]
    size = f"input.size={record['config']['input']['size']}"
    config = compose.single(["method=linear", *given, size, "device=cpu"])
    feed, split = build.feed(config), splits.data(config).open("test")
    method = predictor.load(file, checkpoint=None, device="cpu").method
    started = time.process_time()
    networks = {"trained": method, "merged": merged(method)}
    yield f"{file.stem}: merged in {time.process_time() - started:.2f} CPU s"
    exact = None
    for precision in ("fp32", "bf16"):
        forms = Forms(networks, precision)
        forms.classify(feed, split, repeats)
        exact = forms.logits["trained"] if exact is None else exact
        yield from forms.lines(exact)


def main() -> None:
    """Print the lines of all runs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.merged",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("deltas", type=Path, nargs="+", metavar="DELTA")
    parser.add_argument("--repeats", type=int, default=3, help="measured passes (default: 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for file in options.deltas:
        for line in compared(file, options.repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
