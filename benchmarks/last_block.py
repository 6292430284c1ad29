"""A step with the short last block (backbone.pool=cls) beside one with the whole block.

    python -m benchmarks.last_block

On a ViT-B/16 with random weights, 8 images in fp32, one CPU thread. Both take turns in one
process, of one network with one optimiser; then the trial that chooses the short block. Writes a
record beside those of `benchmarks`.
"""

import argparse
import json
import os
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.__main__ import FOLDER, TINY, VIT_B
from benchmarks.compare import WARMUP, Setting, clock, noise
from petlbench.cost.memory import TrainingStep
from petlbench.run import build, provenance
from petlbench.train.last_block import ShortWalk
from petlbench.train.last_block_trial import passes
from petlbench.train.precision import Precision
from petlbench.train.recompute import Held

FILE = "last_block.json"
METHODS = ("lora", "full")
OVERRIDES = ("backbone.pool=cls",)


def compare(name: str, setting: Setting) -> dict[str, Any]:
    """Seconds of the steps of a method with each block and of trials, and MB kept for backward."""
    config = setting.config(name, OVERRIDES)
    torch.manual_seed(0)
    method = build.method(config)
    images = build.feed(config).prepare(noise(config, setting.batch).images)
    precision = Precision(setting.precision, images.device)
    step = TrainingStep(method, precision, config.train, images)
    assert isinstance(step.forward.last, ShortWalk)
    walks: dict[str, Held] = {"short": step.forward.last, "whole": nullcontext}
    seconds: dict[str, list[float]] = {form: [] for form in walks}
    now = partial(clock, images.device)
    for _ in range(WARMUP + setting.repeats):
        for form, walk in walks.items():
            step.forward.last = walk
            started = now()
            step()
            seconds[form].append(now() - started)
    for _ in range(WARMUP + setting.repeats):
        started = now()
        assert passes(method)
        seconds.setdefault("trial", []).append(now() - started)
    measured = {form: values[WARMUP:] for form, values in seconds.items()}
    return {"method": name, "seconds": measured, "kept": step.saved_bytes() / 1e6}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.last_block",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=5, help="measured steps (default: 5)")
    parser.add_argument("--quick", action="store_true", help="a tiny network, for tests")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = TINY if options.quick else VIT_B
    setting = Setting(network, 8, options.repeats, "cpu", "fp32")
    record = {
        "device": provenance.device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": provenance.versions(),
        "settings": [*setting.network, *OVERRIDES, f"train.batch_size={setting.batch}"],
        "repeats": options.repeats,
        "rows": [compare(name, setting) for name in METHODS],
    }
    (options.out / FILE).write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {options.out / FILE}")


if __name__ == "__main__":
    main()
