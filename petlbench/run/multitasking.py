"""A probe of what multi-task inference saves, in counts and in seconds.

One network for T tasks against both baselines: one batch of T full passes, and T passes one after
another. The tasks' deltas are as their method starts and the backbone's weights are random, which
changes no count and no time.
"""

import copy
import statistics
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch

from petlbench.checks import whole
from petlbench.cost import speed
from petlbench.cost.section import section
from petlbench.cost.shapes import flops
from petlbench.errors import UserError
from petlbench.multitask.network import MultiTask, on_shared
from petlbench.run import build, provenance, tracking
from petlbench.run import probing as probe
from petlbench.run.job import Job
from petlbench.run.lifecycle import recorded, seed_everything
from petlbench.run.record import Record, Store
from petlbench.train.precision import Precision

Config = Mapping[str, Any]
Calls = list[Callable[[], object]]
CPU = torch.device("cpu")


def measure(config: Config) -> Record:
    """Counts and seconds of one method on `probe.tasks` tasks, recorded as `cost.multitask`.

    Raises UserError for a mistake in the configuration, before anything is recorded.
    """
    return recorded(config, _fill)


def check(config: Config) -> None:
    """Refuse values outside their range, by their names, and pairs that cannot be."""
    if config["protocol"]["name"] != "probe":
        raise UserError(
            f"multi-task inference trains nothing: protocol={config['protocol']['name']} "
            "must be protocol=probe"
        )
    for name in ("tasks", "images"):
        whole(f"probe.{name}", config["probe"][name], low=1)
    probe.check(config)


def closing(config: Config, store: Store, asked: Collection[str]) -> list[str]:
    """What was saved, two lines for each finished record that was asked for."""
    found = (record for record in store.records() if record["id"] in asked)
    return [line for record in found if record["status"] == "finished" for line in told(record)]


JOB = Job(check=check, execute=measure, closing=closing)


def _fill(record: Record, config: Config, store: Store, tracker: tracking.Tracker) -> None:
    """Every line leaves its part of the record."""
    seed_everything(config["seed"])
    device = build.device(config)
    method = build.on_meta(config)
    record["provenance"] |= provenance.origin(config, device, method.backbone)
    record["cost"] |= section(
        method,
        device=CPU,  # on shapes: a training step of one task is not what is measured here
        precision=Precision("fp32", CPU),
        settings=config["train"],
        size=config["input"]["size"],
        warmup=1,
        steps=1,
    )
    found = counted(config, tasks=config["probe"]["tasks"])
    record["cost"] |= {"multitask": found | timed(config, device)}


def counted(config: Config, *, tasks: int) -> dict[str, Any]:
    """Blocks and FLOPs, in shapes only; gflops are for one image and all tasks."""
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
def timed(config: Config, device: torch.device) -> dict[str, Any]:
    """Median seconds of the shared pass, of one batch of T and of T passes after each other.

    The three take turns, so that whatever else the machine does meets all of them; spread_s is
    the distance of the quartiles, saved_time_percent what the shared pass saves of the others.
    """
    values = config["probe"]
    precision = Precision(config["train"]["precision"], device)
    works = {way: partial(_all, calls, precision) for way, calls in _ways(config, device).items()}
    passes = {
        way: speed.warmed_up(work, values["repeat_s"], device) for way, work in works.items()
    }
    found: dict[str, list[float]] = {way: [] for way in works}
    for _ in range(values["repeats"]):
        for way, work in works.items():
            found[way].append(speed.seconds(work, passes[way], device) / passes[way])
    seconds = {way: statistics.median(each) for way, each in found.items()}
    return {
        "images": values["images"],
        "seconds": seconds,
        "spread_s": {way: speed.spread(each) for way, each in found.items()},
        "saved_time_percent": {
            way: 100 * (1 - seconds["shared"] / seconds[way]) for way in ("batch", "sequential")
        },
    }


def _ways(config: Config, device: torch.device) -> dict[str, Calls]:
    """The calls of each way to answer `probe.images` images for all tasks."""
    values = {key: value for key, value in config["method"].items() if not key.startswith("_")}
    name, classes = config["factors"]["method"], config["dataset"]["classes"]
    backbone = build.backbone(config).to(device)
    methods = {
        str(task): on_shared(backbone, name, values, classes=classes)
        for task in range(config["probe"]["tasks"])
    }
    network = MultiTask(methods)
    batch = backbone.example().repeat(config["probe"]["images"], 1, 1, 1)
    return {
        "shared": [partial(network, batch)],
        "batch": [partial(network.apart, batch.expand(len(methods), *batch.shape))],
        "sequential": [partial(method, batch) for method in methods.values()],
    }


def _all(calls: Calls, precision: Precision) -> None:
    for call in calls:
        with (
            precision.autocast()
        ):  # each its own: autocast keeps its casts of weights until it ends
            call()


def told(record: Record) -> list[str]:
    """What was measured, in two lines."""
    found = record["cost"]["multitask"]
    gflops, seconds, saved = found["gflops"], found["seconds"], found["saved_time_percent"]
    return [
        f"{record['title']} on {record['factors']['backbone']}, {found['tasks']} tasks: "
        f"{found['shared_blocks']} of {found['blocks']} blocks run once; {gflops['shared']:.1f} "
        f"instead of {gflops['batch']:.1f} GFLOP an image, {found['saved_percent']:.1f} % saved",
        f"  {seconds['shared']:.3f} s; one batch of all tasks {seconds['batch']:.3f} s "
        f"({saved['batch']:.0f} % saved), one task after another {seconds['sequential']:.3f} s "
        f"({saved['sequential']:.0f} % saved)",
    ]
