"""What multi-task inference saves: python -m petlbench.multitask --method dtl --out FILE.

One network for T tasks against both baselines: one batch of T full passes, and T passes one after
another. The tasks' deltas are as their method starts and the backbone's weights are random, which
changes no count and no time.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from petlbench import build, compose, provenance
from petlbench.checks import whole
from petlbench.cost.shapes import flops
from petlbench.errors import UserError
from petlbench.multitask.network import MultiTask, on_shared
from petlbench.record import Record, write
from petlbench.run import blank, ended, seed_everything
from petlbench.train.precision import Precision

Config = Mapping[str, Any]


def measured(config: Config, *, tasks: int, images: int, repeats: int) -> dict[str, Any]:
    """The record's `cost.multitask`: counts on the meta device, seconds on the run's device.

    gflops are for one image and all tasks; seconds the median of `repeats` passes with `images`
    images, the three ways in turn.
    """
    whole("--tasks", tasks, low=1)
    return counted(config, tasks=tasks) | {
        "seconds": timed(config, tasks=tasks, images=images, repeats=repeats)
    }


def counted(config: Config, *, tasks: int) -> dict[str, Any]:
    """Blocks and FLOPs, in shapes only."""
    with torch.device("meta"):
        method = build.on_meta(config)
        network = MultiTask({str(task): copy.deepcopy(method) for task in range(tasks)})
        image = method.backbone.example()
        shared = flops(lambda: network(image)) / 1e9
        batch = flops(lambda: network.apart(image.expand(tasks, *image.shape))) / 1e9
    return {
        "tasks": tasks,
        "shared_blocks": network.shared_blocks,
        "blocks": network.blocks,
        "gflops": {"shared": shared, "batch": batch},
        "saved_percent": 100 * (1 - shared / batch),
    }


@torch.no_grad()
def timed(config: Config, *, tasks: int, images: int, repeats: int) -> dict[str, float]:
    """Median seconds of the shared pass, of one batch of T, and of T passes after each other."""
    whole("--images", images, low=1)
    whole("--repeats", repeats, low=1)
    device = build.device(config)
    backbone = build.backbone(config).to(device)
    values = {key: value for key, value in config["method"].items() if not key.startswith("_")}
    name, classes = config["factors"]["method"], config["dataset"]["classes"]
    methods = {
        str(task): on_shared(backbone, name, values, classes=classes) for task in range(tasks)
    }
    network = MultiTask(methods)
    batch = backbone.example().repeat(images, 1, 1, 1)
    each = batch.expand(tasks, *batch.shape)
    ways: dict[str, Callable[[], object]] = {
        "shared": lambda: network(batch),
        "batch": lambda: network.apart(each),
        "sequential": lambda: [method(batch) for method in methods.values()],
    }
    with Precision(config["train"]["precision"], device).autocast():
        rounds = [
            {way: _seconds(work, device) for way, work in ways.items()} for _ in range(repeats + 1)
        ]
    # the first round warms up
    return {way: statistics.median(row[way] for row in rounds[1:]) for way in ways}


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def probed(arguments: argparse.Namespace) -> Record:
    """A record of protocol `probe` with the measured cost."""
    choices = [f"method={arguments.method}", f"backbone={arguments.backbone}"]
    config = compose.single([*choices, "backbone.pretrained=false", *arguments.overrides])
    asked = {key: getattr(arguments, key) for key in ("tasks", "images", "repeats")}
    config["dataset"] = {
        **dict.fromkeys(("title", "suite", "group"), "probe"),
        "classes": config["dataset"]["classes"],
        **asked,
    }
    config["protocol"] = {"name": "probe"}
    config["factors"]["task"] = "probe"
    seed_everything(config["seed"])
    record = blank(config)
    record["cost"] = {"multitask": measured(config, **asked)}
    backbone = build.on_meta(config).backbone
    record["provenance"] |= provenance.origin(config, build.device(config), backbone)
    return ended(record, "finished", None)


def summary(record: Record) -> str:
    """What was measured, in two lines."""
    found = record["cost"]["multitask"]
    gflops, seconds = found["gflops"], found["seconds"]
    return (
        f"{record['title']} on {record['factors']['backbone']}, {found['tasks']} tasks: "
        f"{found['shared_blocks']} of {found['blocks']} blocks run once; {gflops['shared']:.1f} "
        f"instead of {gflops['batch']:.1f} GFLOP an image, {found['saved_percent']:.1f} % saved\n"
        f"{seconds['shared']:.3f} s; one batch of all tasks {seconds['batch']:.3f} s; "
        f"one task after another {seconds['sequential']:.3f} s"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit status 1 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m petlbench.multitask", description=__doc__)
    parser.add_argument("--method", required=True, help="as in method=NAME")
    parser.add_argument("--backbone", default="vit_b16", help="as in backbone=NAME")
    parser.add_argument("--tasks", type=int, default=19, help="VTAB-1K has 19")
    parser.add_argument("--images", type=int, default=1, help="in a batch, for the seconds")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes")
    parser.add_argument("--out", type=Path, required=True, help="the record, a JSON file")
    parser.add_argument("overrides", nargs="*", help="e.g. device=cpu method.inject_from=6")
    chosen = parser.parse_intermixed_args(arguments)
    try:
        record = probed(chosen)
        write(record, chosen.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (HydraException, OmegaConfBaseException) as error:
        line = compose.explain(error, lambda: compose.keys_with(chosen.overrides))
        print(f"error: {line}", file=sys.stderr)
        return 1
    print(summary(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
