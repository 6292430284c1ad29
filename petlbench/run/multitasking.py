"""A probe of what multi-task inference saves, in counts and in seconds.

One network for T tasks against both baselines: one batch of T full passes, and T passes one after
another. The tasks' deltas are as their method starts and the backbone's weights are random, which
changes no count and no time.
"""

import statistics
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import nn

from petlbench.checks import is_number
from petlbench.config.job_nodes import PROBE, ProbeConfig
from petlbench.config.schema import Config
from petlbench.cost import speed
from petlbench.cost.section import Conditions, section
from petlbench.cost.shapes import flops
from petlbench.errors import UserError
from petlbench.model.template import Template
from petlbench.multitask.network import MultiTask, on_shared
from petlbench.run import build, probing, provenance
from petlbench.run.job import Job
from petlbench.run.lifecycle import Run, recorded, seed_everything
from petlbench.run.record import Record, Store
from petlbench.train.frozen import in_16_bit
from petlbench.train.precision import Precision

Calls = list[Callable[[], object]]
CPU = torch.device("cpu")


def measure(config: Config) -> Record:
    """Counts and seconds of one method on `probe.tasks` tasks, recorded as `cost.multitask`.

    Raises UserError for a mistake in the configuration, before anything is recorded.
    """
    return recorded(config, _fill)


def check(config: Config) -> None:
    """Refuse another protocol than probe, missing values, and unsupported pairs."""
    if config.protocol.name != PROBE:
        raise UserError(
            f"protocol is {config.protocol.name}; multi-task inference trains nothing: set "
            "protocol=probe"
        )
    _sizes(probing.values(config))
    probing.check(config)


def summary(config: Config, store: Store, identities: Collection[str]) -> list[str]:
    """What was saved: two lines for each finished record that was requested."""
    finished = (
        record
        for record in store.records()
        if record["id"] in identities and record["status"] == "finished" and _is_whole(record)
    )
    return [line for record in finished for line in savings(record)]


def _is_whole(record: Record) -> bool:
    """Whether a record has all figures that `savings` prints."""
    cost = record["cost"].get("multitask") or {}
    saved = cost.get("saved_time_percent")
    figures = [cost.get("saved_percent"), *(cost.get("gflops") or {}).values()]
    return isinstance(saved, dict) and len(figures) == 3 and all(map(is_number, figures))


def _sizes(values: ProbeConfig) -> tuple[int, int]:
    """Number of tasks, and of images in a batch."""
    if values.tasks is None or values.images is None:
        raise UserError("multi-task inference needs probe.tasks=N and probe.images=N")
    return values.tasks, values.images


def _fill(run: Run) -> None:
    """Every line leaves its part of the record."""
    config, record = run.config, run.record
    probing.check_device(config)
    seed_everything(config.seed)
    device = build.device(config.device)
    method = build.on_meta(config)
    record["provenance"] |= provenance.of_run(config, device, method.backbone)
    # on shapes: a training step of one task is not what is measured here
    conditions = Conditions(CPU, Precision("fp32", CPU), config.train, config.input.size)
    record["cost"] |= section(method, conditions, record["notes"])
    tasks, _ = _sizes(probing.values(config))
    record["cost"] |= {"multitask": counted(config, tasks=tasks) | timed(config, device)}


def counted(config: Config, *, tasks: int) -> dict[str, Any]:
    """Blocks and FLOPs, on shapes only; gflops are for one image and all tasks."""
    with torch.device("meta"):
        method = build.on_meta(config)
        # copies: tasks differ in values only, which tensors on meta do not have
        template = Template(method)
        network = MultiTask({str(task): template.copy() for task in range(tasks)})
        image = method.backbone.example()
        shared = flops(lambda: network(image)) / 1e9
        # (1, 3, H, W) -> (T, 1, 3, H, W)
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
    """Median seconds of the shared pass, of one batch of T, and of T passes one after another.

    The three alternate, so that other load of the machine affects all of them. spread_s is the
    distance of the quartiles, saved_time_percent what the shared pass saves of the others.
    """
    values = probing.values(config)
    precision = Precision(config.train.precision, device)
    networks, ways = _ways(config, device)
    works = {way: partial(_all, calls, precision) for way, calls in ways.items()}
    timings: dict[str, list[float]] = {way: [] for way in works}
    with in_16_bit(networks, precision, lambda: [work() for work in works.values()]):
        passes = {
            way: speed.warmed_up(work, values.repeat_s, device) for way, work in works.items()
        }
        for _ in range(values.repeats):
            for way, work in works.items():
                timings[way].append(speed.seconds(work, passes[way], device) / passes[way])
    seconds = {way: statistics.median(each) for way, each in timings.items()}
    return {
        "images": values.images,
        "seconds": seconds,
        "spread_s": {way: speed.spread(each) for way, each in timings.items()},
        "saved_time_percent": {
            way: 100 * (1 - seconds["shared"] / seconds[way]) for way in ("batch", "sequential")
        },
    }


def _ways(config: Config, device: torch.device) -> tuple[list[nn.Module], dict[str, Calls]]:
    """Networks, and the calls of each way to answer `probe.images` images for all tasks."""
    tasks, images = _sizes(probing.values(config))
    backbone = build.backbone(config).to(device)
    # each task has learned tensors of its own and the frozen ones of the backbone
    methods = {
        str(task): on_shared(
            backbone,
            config.factors.method,
            config.method.values,
            classes=config.dataset.classes,
        )
        for task in range(tasks)
    }
    network = MultiTask(methods)
    batch = backbone.example().repeat(images, 1, 1, 1)  # (B, 3, H, W)
    return [network, *methods.values()], {
        "shared": [partial(network, batch)],
        # (T, B, 3, H, W), a view of the one batch
        "batch": [partial(network.apart, batch.expand(len(methods), *batch.shape))],
        "sequential": [partial(method, batch) for method in methods.values()],
    }


def _all(calls: Calls, precision: Precision) -> None:
    for call in calls:
        # a context for each: autocast keeps its casts of weights until it ends
        with precision.autocast():
            call()


def savings(record: Record) -> list[str]:
    """What was measured, in two lines."""
    cost = record["cost"]["multitask"]
    gflops, seconds, saved = cost["gflops"], cost["seconds"], cost["saved_time_percent"]
    return [
        f"{record['title']} on {record['factors']['backbone']}, {cost['tasks']} tasks: "
        f"{cost['shared_blocks']} of {cost['blocks']} blocks run once; {gflops['shared']:.1f} "
        f"instead of {gflops['batch']:.1f} GFLOP an image, {cost['saved_percent']:.1f} % saved",
        f"  {seconds['shared']:.3f} s; one batch of all tasks {seconds['batch']:.3f} s "
        f"({saved['batch']:.0f} % saved), one task after another {seconds['sequential']:.3f} s "
        f"({saved['sequential']:.0f} % saved)",
    ]


JOB = Job(check=check, execute=measure, summary=summary)
