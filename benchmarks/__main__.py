"""petlbench beside textbook forms of the same methods, on a ViT-B/16 with random weights.

    python -m benchmarks                  8 images in fp32 on one CPU thread
    python -m benchmarks --device cuda    32 images in bf16 on a GPU
    python -m benchmarks --case DTL --out FOLDER      one row
    python -m benchmarks.page             results/measured/speed/README.md from the records

Both forms take turns in one process, so that a ratio of the two does not depend on what else the
machine does. They have equal weights, logits and gradients, which is checked first. Writes one
record for each kind of device. Needs no data and no weights.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import compare, decoding, modes
from benchmarks.cases import CASES, FORECASTS, KEPT, MODES, Count
from benchmarks.compare import Setting
from petlbench.cost import forecast, shapes
from petlbench.errors import one_line
from petlbench.run import build, provenance
from petlbench.testing import networks
from petlbench.train.precision import Precision
from petlbench.units import MIB_OF_GIB

FOLDER = Path(__file__).parent.parent / "results" / "measured" / "speed"
DEVICES = ("cpu", "cuda")  # a record each
VIT_B = ("backbone=vit_b16",)
# for a test: the same comparisons on a network of 12 blocks of width 32
TINY = ("backbone=vit_b16", "backbone.name=petlbench_vit", f"input.size={networks.SIZE}")


def setting(options: argparse.Namespace) -> Setting:
    """The conditions that the options name."""
    network = TINY if options.quick else VIT_B
    if options.device == "cuda":
        return Setting(network, 32, options.repeats, "cuda", "bf16")
    return Setting(network, 8, options.repeats, "cpu", "fp32")


def predicted_gib(count: Count, network: tuple[str, ...]) -> float:
    """Peak memory of a step on a GPU in 16 bits, in GiB, from shapes."""
    config = Setting(network, count.batch, 1, "cpu", "bf16").config(count.method, count.overrides)
    peak = forecast.peak_mib(
        build.on_meta(config),
        precision="bf16",
        train=config.train,
        batch=count.batch,
        size=config.input.size,
    )
    return peak["allocated"] / MIB_OF_GIB


def kept_mb(count: Count, network: tuple[str, ...]) -> float:
    """MB (1e6 bytes) that a step in fp32 keeps for backward, from shapes."""
    config = Setting(network, count.batch, 1, "cpu", "fp32").config(count.method, count.overrides)
    precision = Precision("fp32", shapes.CPU)
    size = config.input.size
    method = build.on_meta(config)
    sizes = {"batch": count.batch, "size": size}
    mode = config.train.memory
    return shapes.saved_bytes_on_cpu(method, precision, **sizes, memory=mode) / 1e6


def counted(counts: tuple[Count, ...], count: Any, network: tuple[str, ...]) -> list[Any]:
    """A row for each count."""
    return [
        {
            "name": row.name,
            "overrides": [f"method={row.method}", *row.overrides],
            "batch": row.batch,
            "value": count(row, network),
            "bar": row.bar,
        }
        for row in counts
    ]


def rows(conditions: Setting) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """Part of the record, name and measurement of each row that takes time."""
    for case in CASES:
        yield "cases", case.name, partial(compare.compare, case, conditions)
    for mode in MODES:
        yield "modes", mode.name, partial(modes.compare, mode, conditions)


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The record of one device, after each of its rows."""
    conditions = setting(options)
    images = 16 if options.quick else 128
    size = conditions.config("linear", ()).input.size
    record: dict[str, Any] = {
        "device": provenance.device_name(build.device(options.device)),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": provenance.versions(),
        "network": list(conditions.network),
        "batch": conditions.batch,
        "precision": conditions.precision,
        "repeats": options.repeats,
        "cases": [],
        "modes": [],
        "not_run": [],
        "forecasts": counted(FORECASTS, predicted_gib, conditions.network),
        "kept": counted(KEPT, kept_mb, conditions.network),
        "decoding": decoding.compare(
            images=images, batch=conditions.batch, size=size, repeats=options.repeats
        ),
    }
    for part, name, measure in rows(conditions):
        if name not in (options.case or (name,)):
            continue
        print(f"{name} ...", flush=True)
        try:
            record[part].append(measure())
        except torch.OutOfMemoryError as error:
            record["not_run"].append(f"{name}: {one_line(error)}")
            print(f"  not run: {one_line(error)}", flush=True)
        yield record


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a tiny network, for tests")
    names = [row.name for row in (*CASES, *MODES)]
    parser.add_argument(
        "--case", action="append", choices=names, metavar="NAME", help="one row; may be repeated"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the record")
    options = parser.parse_args()
    if options.case and options.out == FOLDER:
        parser.error(f"--case would replace the whole record in {FOLDER}; give another --out")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.device}.json"
    for record in measured(options):
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
