"""The costs that a record may hold, as columns: how each is called, and where it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from petlbench.errors import unknown
from petlbench.report.table import Column
from petlbench.run.record import Record

GROUP = "Cost"
MEMORY = "memory"  # the peak where all runs have it, else what is saved for backward


@dataclass(frozen=True)
class Cost:
    """A figure of record["cost"]: its dotted path, and what to multiply it by.

    below: the path of another figure; the cost is then the percentage that it is below that.
    """

    title: str
    path: str
    digits: int
    best: Literal["high", "low"] | None
    scale: float = 1.0
    below: str | None = None


COSTS = {
    "parameters_m": Cost("parameters w/o head (M)", "parameters.method", 3, "low", 1e-6),
    "units": Cost("structural units", "units", 0, None),
    "delta_kb": Cost("delta (kB)", "delta_bytes", 0, "low", 1e-3),
    "peak_mib": Cost("peak memory (MiB)", "peak_mib.allocated", 0, "low"),
    "reserved_mib": Cost("reserved memory (MiB)", "peak_mib.reserved", 0, "low"),
    "predicted_mib": Cost("predicted peak (MiB)", "predicted_mib.allocated", 0, "low"),
    "image_mib": Cost("memory an image (MiB)", "image_mib", 1, "low"),
    **{
        f"{part}_mib": Cost(f"{part} (MiB)", f"peak_mib.{part}", 0, "low")
        for part in ("weights", "gradients", "optimiser", "activations", "workspace")
    },
    "saved_mb": Cost("saved for backward (MB)", "saved_mb", 1, "low"),
    "gflops_forward": Cost("forward (GFLOP/image)", "gflops.forward", 2, "low"),
    "gflops_step": Cost("training step (GFLOP/image)", "gflops.step", 2, "low"),
    "train_images_per_s": Cost("train images/s", "train_images_per_s", 0, "high"),
    "test_images_per_s": Cost("test images/s", "test_images_per_s", 0, "high"),
    "train_s": Cost("train seconds", "train_s", 1, "low"),
    "tasks": Cost("tasks", "multitask.tasks", 0, None),
    "shared_blocks": Cost("shared blocks", "multitask.shared_blocks", 0, None),
    "blocks": Cost("blocks", "multitask.blocks", 0, None),
    "shared_gflops": Cost("shared (GFLOP)", "multitask.gflops.shared", 1, "low"),
    "batch_gflops": Cost("full passes (GFLOP)", "multitask.gflops.batch", 1, "low"),
    "saved_percent": Cost("FLOPs saved (%)", "multitask.saved_percent", 1, "high"),
    "shared_s": Cost("shared (s)", "multitask.seconds.shared", 4, "low"),
    "batch_s": Cost("one batch of full passes (s)", "multitask.seconds.batch", 4, "low"),
    "sequential_s": Cost("full passes in turn (s)", "multitask.seconds.sequential", 4, "low"),
    **{
        f"{way}_saved_percent": Cost(
            f"time saved against {told} (%)",
            "multitask.seconds.shared",
            1,
            "high",
            below=f"multitask.seconds.{way}",
        )
        for way, told in (("batch", "one batch"), ("sequential", "passes in turn"))
    },
}
PLAIN = ("parameters_m", MEMORY, "train_images_per_s", "test_images_per_s", "train_s")


def of(record: Record) -> dict[str, float]:
    """All costs of a record; NaN for what was not measured."""
    return {key: _number(record["cost"], cost) for key, cost in COSTS.items()}


def chosen(keys: Sequence[str], finished: pd.DataFrame) -> list[str]:
    """The keys, with `memory` as the one of its two figures that all finished runs have."""
    for key in keys:
        if key != MEMORY and key not in COSTS:
            raise unknown("cost", key, [MEMORY, *COSTS])
    return [memory_key(finished) if key == MEMORY else key for key in keys]


def memory_key(finished: pd.DataFrame) -> str:
    """The peak where all finished runs have it, else the bytes kept for backward."""
    return "peak_mib" if len(finished) and finished["peak_mib"].notna().all() else "saved_mb"


def column(key: str, *, group: str = GROUP, ranked: bool = False) -> Column:
    """The column of a cost."""
    cost = COSTS[key]
    return Column(key, cost.title, group, cost.digits, cost.best if ranked else None)


def meaning(keys: Sequence[str]) -> list[str]:
    """What a reader of these columns must know, in a line."""
    said = {
        "parameters_m": "Parameters: trainable ones of the method in millions, head excluded.",
        "peak_mib": "Peak memory: of what is allocated in training, MiB (2^20 bytes).",
        "activations_mib": "Weights to workspace: the parts of that peak.",
        "predicted_mib": "Predicted: the peak expected on a GPU in 16 bits, counted on shapes.",
        "saved_mb": "Saved for backward: bytes kept by one training step, MB (1e6 bytes).",
        "gflops_forward": "GFLOP: 1e9 floating-point operations, two for a multiply-add.",
    }
    told = [said[key] for key in keys if key in said]
    return [" ".join([*told, "Costs are means over runs."])] if keys else []


def _number(costs: Mapping[str, Any], cost: Cost) -> float:
    figure = _at(costs, cost.path) * cost.scale
    if cost.below is None:
        return figure
    other = _at(costs, cost.below)
    return 100 * (1 - figure / other) if other else float("nan")


def _at(node: Any, path: str) -> float:
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return float("nan") if node is None else float(node)
