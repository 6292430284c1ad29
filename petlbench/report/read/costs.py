"""The costs of a record as numbers."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd

from petlbench.cost.figures import COSTS, Cost
from petlbench.errors import unknown
from petlbench.run.record import Record

MEMORY = "memory"  # the measured peak if all runs have it, else the bytes saved for backward
USUAL = ("parameters_m", MEMORY, "train_images_per_s", "test_images_per_s", "train_s")


def costs_of(record: Record) -> dict[str, float]:
    """All costs of a record; NaN if not measured."""
    return {key: _number(record["cost"], cost) for key, cost in COSTS.items()}


def resolved(keys: Sequence[str], finished: pd.DataFrame) -> list[str]:
    """The keys of COSTS, `memory` replaced by one of its two figures.

    Raises UserError for an unknown cost.
    """
    for key in keys:
        if key != MEMORY and key not in COSTS:
            raise unknown("cost", key, [MEMORY, *COSTS])
    return [memory_key(finished) if key == MEMORY else key for key in keys]


def memory_key(finished: pd.DataFrame) -> str:
    """`peak_mib` if all finished runs with a training step have it, else `saved_mb`."""
    # methods without a step, such as k-NN, keep no byte for backward and have no peak anywhere
    stepped = finished[finished["saved_mb"] != 0]
    # one column never mixes the two measures, so a single run on a CPU decides
    return "peak_mib" if len(stepped) and stepped["peak_mib"].notna().all() else "saved_mb"


def _number(costs: Mapping[str, Any], cost: Cost) -> float:
    figure = _figure(costs, cost.path)
    if figure != figure:  # NaN, as most are
        return figure
    figure *= cost.scale
    if cost.below is None:
        return figure
    other = _figure(costs, cost.below)
    return 100 * (1 - figure / other) if other else float("nan")


def _figure(node: Any, path: str) -> float:
    for key in _keys(path):
        if node is None:
            return math.nan
        node = node.get(key)
    return math.nan if node is None else float(node)


@cache
def _keys(path: str) -> list[str]:
    return path.split(".")
