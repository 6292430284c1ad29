"""CPU seconds and memory of a report of 10,000 records, and of planning a sweep.

    python -m tests.torture.scale --out results/measured/torture/scale.json

Makes both stores itself, in a temporary folder, from composed configurations and drawn scores; no
data, weights or GPU. A minute on one core. `leaderboard` reports one store: 26 methods x 19 tasks
of VTAB-1K x about 20 seeds, each with a curve of 100 epochs. `sweep` plans and skips
26 x 19 x 3 finished runs of the other; `plan` is the dry run of the same runs without a record,
which tries each method on the backbone. Prints the figures as JSON; exits with 1 if one is above
its bar.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from petlbench.config import compose, options
from petlbench.config.schema import Config
from petlbench.report.read.rows import members
from petlbench.run import provenance
from petlbench.run.lifecycle import blank, ended
from petlbench.run.record import Record, Store

METHODS = 26
SEEDS = 3  # of the sweep
RECORDS = 10_000  # of the leaderboard
EPOCHS = 100  # of VTAB-1K
# CPU seconds of the user and the system together, and MB (1e6 bytes) of resident memory
BARS = {
    "leaderboard": {"cpu_s": 5.0, "peak_mb": 500.0},
    "sweep": {"cpu_s": 10.0},
    "plan": {"cpu_s": 10.0},
}
# A child that measures itself. On Linux ru_maxrss begins with the memory of the parent, and VmHWM
# does not; both are in KiB there, and ru_maxrss is in bytes on macOS.
MEASURED = """
import atexit, json, os, resource, runpy, sys
def show():
    used, peak = resource.getrusage(resource.RUSAGE_SELF), 0
    if sys.platform == "linux":
        lines = open("/proc/self/status").read().splitlines()
        peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    else:
        peak = used.ru_maxrss
    figures = {"cpu_s": used.ru_utime + used.ru_stime, "peak_mb": peak / 1e6}
    with open(os.environ["FIGURES"], "w") as file:
        json.dump(figures, file)
atexit.register(show)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Measurement:
    """cpu_s: seconds of user and system. peak_mb: resident memory. output: of the command."""

    cpu_s: float
    peak_mb: float
    output: str


def methods() -> list[str]:
    """The first methods in the order of their names, without the suites of methods."""
    names = [name for name in options.names("method") if not options.listed("method", name)]
    return names[:METHODS]


def cells() -> list[Config]:
    """A configuration for each method and task."""
    return [
        compose.single([f"method={method}", "backbone=vit_b16", f"dataset={task}", "seed=0"])
        for method, task in itertools.product(methods(), members("dataset", "vtab"))
    ]


def seeds(config: Config) -> Iterator[Config]:
    """The configuration with each seed from 0."""
    for seed in itertools.count():
        yield replace(config, seed=seed, factors=replace(config.factors, seed=seed))


def runs(every: list[Config], count: int) -> Iterator[Config]:
    """`count` runs: each cell with seed 0, then each with seed 1, and so on."""
    rounds = zip(*map(seeds, every), strict=True)
    return itertools.islice(itertools.chain.from_iterable(rounds), count)


def finished(config: Config, draw: np.random.Generator) -> Record:
    """A record of a run that ended with drawn figures."""
    total = 2000
    correct = int(draw.integers(total // 2, total))
    record = ended(blank(config), "finished", None)
    record["scores"] = {
        "test": {"top1": 100 * correct / total, "correct": correct, "total": total}
    }
    record["selection"] = {
        "fit_on": "trainval",
        "select_on": None,
        "epoch": EPOCHS,
        "scores": {},
        "honest": True,
    }
    record["curve"] = {
        "epoch": list(range(1, EPOCHS + 1)),
        "loss": draw.random(EPOCHS).tolist(),
        "lr": draw.random(EPOCHS).tolist(),
    }
    record["cost"] = _cost(draw)
    record["provenance"] |= _provenance(config)
    return record


def _cost(draw: np.random.Generator) -> dict[str, Any]:
    return {
        "parameters": {"method": 36864, "head": 76900},
        "units": 12,
        "delta_bytes": 456_000,
        "saved_mb": 772.0,
        "gflops": {"forward": 35.1, "step": 70.2},
        "peak_mib": None,
        "train_s": float(draw.random() * 900),
        "train_images_per_s": 160.0,
        "test_s": 20.0,
        "test_images_per_s": 400.0,
    }


def _provenance(config: Config) -> dict[str, Any]:
    labels = {str(label): 10 for label in range(config.dataset.classes)}
    split = {"images": 1000, "format": "JPEG", "labels": labels}
    return {
        "checkpoint": {"tag": "augreg_in21k", "file": "model.safetensors", "sha256": "0c" * 32},
        "versions": {
            "petlbench": "0.1.0",
            "torch": "2.14.1",
            "timm": "1.0.31",
            "commit": "0" * 12,
        },
        "device": "a GPU",
        "precision": "fp32",
        "attention": "fused",
        "deterministic": True,
        "splits": {
            name: {**split, "sha256": f"{name} of {config.factors.task}"}
            for name in ("trainval", "test")
        },
        "seconds": 60.0,
    }


def measured(folder: Path, module: str, *arguments: str) -> Measurement:
    """`python -m module` in a process of its own, which must end with exit code 0."""
    figures = folder / "figures.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FIGURES": str(figures)}
    command = [sys.executable, "-c", MEASURED, module, *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    return Measurement(**json.loads(figures.read_text()), output=output)


def leaderboard(every: list[Config], folder: Path) -> Measurement:
    """The leaderboard of RECORDS records."""
    store, draw = Store(folder / "leaderboard"), np.random.default_rng(0)
    for config in runs(every, RECORDS):
        store.write(finished(config, draw))
    out = folder / "out"
    return measured(
        folder,
        "petlbench.report",
        *("leaderboard", "--records", str(store.root), "--out", str(out)),
    )


def sweep(every: list[Config], folder: Path) -> Measurement:
    """Planning and skipping of finished runs."""
    store, draw = Store(folder / "sweep"), np.random.default_rng(0)
    count = SEEDS * len(every)
    for config in runs(every, count):
        store.write(finished(config, draw))
    found = measured(folder, "petlbench", *command(store.root))
    assert f"plan: {count} runs, {count} finished (skipped), 0 to run" in found.output, found
    return found


def plan(every: list[Config], folder: Path) -> Measurement:
    """The plan of the same runs, none of them finished."""
    found = measured(folder, "petlbench", *command(folder / "none"), "hydra.sweeper.dry_run=true")
    count = SEEDS * len(every)
    assert f"plan: {count} runs, 0 finished (skipped), {count} to run" in found.output, found
    return found


def command(root: Path) -> list[str]:
    """The arguments of the sweep."""
    seeds = ",".join(map(str, range(SEEDS)))
    options = [f"method={','.join(methods())}", "backbone=vit_b16", "dataset=vtab"]
    return ["-m", *options, f"seed={seeds}", f"results.root={root}"]


def main() -> int:
    """Measure, print JSON, and return 1 if a figure is above its bar."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.scale")
    parser.add_argument("--out", type=Path, help="also write the figures to this file")
    out: Path | None = parser.parse_args().out
    every = cells()
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "leaderboard": leaderboard(every, Path(folder)),
            "sweep": sweep(every, Path(folder)),
            "plan": plan(every, Path(folder)),
        }
    figures = {
        name: {key: round(getattr(result, key), 2) for key in ("cpu_s", "peak_mb")}
        for name, result in results.items()
    }
    above = [
        f"{name} {key}"
        for name, bars in BARS.items()
        for key, bar in bars.items()
        if figures[name][key] > bar
    ]
    report = {
        "device": provenance.device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": provenance.versions(),
        "records": {"leaderboard": RECORDS, "sweep": SEEDS * len(every)},
        "bars": BARS,
        **figures,
        "above": above,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
