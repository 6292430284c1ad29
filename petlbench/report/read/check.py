"""Checks of a record: the type of the value at each dotted place.

In a place, * stands for every key of a mapping and every entry of a list.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, chain
from typing import Any

from petlbench.report.read.costs import COSTS
from petlbench.run.record import STATUSES, Record

Check = Callable[[Any], bool]


def text(value: Any) -> bool:
    """Whether a value is a string."""
    return isinstance(value, str)


def mapping(value: Any) -> bool:
    """Whether a value is a dictionary."""
    return isinstance(value, dict)


def number(value: Any) -> bool:
    """Whether a value is a finite number: JSON of other programs may hold NaN and Infinity."""
    # bool is a subclass of int
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and math.isfinite(value)


def whole(value: Any) -> bool:
    """Whether a value is an integer."""
    return type(value) is int


def numbers(value: Any) -> bool:
    """Whether a value is a list of finite numbers."""
    return isinstance(value, list) and all(map(number, value))


def listing(value: Any) -> bool:
    """Whether a value is a list."""
    return isinstance(value, list)


def optional(check: Check) -> Check:
    """A check that also accepts a missing or null value."""
    return lambda value: value is None or check(value)


def _above(place: str) -> list[str]:
    """The places above one: a and a.b for a.b.c."""
    return list(accumulate(place.split("."), "{}.{}".format))[:-1]


FIGURES = [f"cost.{cost.path}" for cost in COSTS.values()]
# in the order of the message, which names the first broken places only
EVERY: dict[str, Check] = {
    "id": text,
    "status": STATUSES.__contains__,
    "reason": optional(text),
    "factors": mapping,
    "protocol": text,
    "title": text,
    "task_title": text,
    "suite": text,
    "group": text,
    "config": mapping,
    "scores": mapping,
    "selection": mapping,
    **{place: optional(mapping) for figure in FIGURES for place in _above(figure)},
    # replaces the optional check above: every figure is below `cost`
    "cost": mapping,
    "provenance": mapping,
    **dict.fromkeys(("factors.method", "factors.backbone", "factors.task"), text),
    **dict.fromkeys(("factors.draw", "factors.seed"), whole),
    "config.train": mapping,
    **dict.fromkeys(
        ("config.backbone", "config.input", "config.dataset", "config.method", "config.protocol"),
        optional(mapping),
    ),
    **dict.fromkeys(("config.backbone.mean", "config.backbone.std"), optional(numbers)),
    "scores.*": mapping,
    "scores.*.top1": number,
    **dict.fromkeys(FIGURES, optional(number)),
    "cost.inference": optional(listing),
    "cost.inference.*": mapping,
    "cost.inference.*.batch": whole,
    **dict.fromkeys(
        ("cost.inference.*.images_per_s", "cost.inference.*.spread"), optional(number)
    ),
    "cost.inference.*.reason": optional(text),
    "provenance.versions": optional(mapping),
    "provenance.checkpoint": optional(mapping),
    **dict.fromkeys(("provenance.checkpoint.tag", "provenance.checkpoint.sha256"), optional(text)),
    "provenance.splits": optional(mapping),
    "provenance.splits.*": mapping,
    "provenance.splits.*.sha256": text,
}
FINISHED: dict[str, Check] = {
    "provenance.device": text,
    "provenance.versions": mapping,
    "provenance.versions.torch": text,
}
SCORED: dict[str, Check] = {"scores": bool}  # a probe has costs only


def broken(record: Record) -> list[str]:
    """The dotted places of a record whose value is missing or wrong."""
    finished = record.get("status") == "finished"
    scored = finished and record.get("protocol") != "probe"
    found = _wrong(_tree(finished, scored), record)
    return list(dict.fromkeys(name for _, name in sorted(found)))


@dataclass
class _Node:
    """The checks of a place, each with its position in the tables above, and the places below."""

    checks: list[tuple[int, Check]] = field(default_factory=list)
    below: dict[str, "_Node"] = field(default_factory=dict)


# one walk over all places: a search for each of them takes 2 ms a record
@cache
def _tree(finished: bool, scored: bool) -> _Node:
    tables = [EVERY, FINISHED if finished else {}, SCORED if scored else {}]
    root = _Node()
    for number, (place, check) in enumerate(chain.from_iterable(map(dict.items, tables))):
        node = root
        for key in place.split("."):
            node = node.below.setdefault(key, _Node())
        node.checks.append((number, check))
    return root


def _wrong(node: _Node, value: Any) -> list[tuple[int, str]]:
    """Position and dotted name of each wrong value of a node and below; a missing one is None.

    Nothing below a value that is no container: the container has a check of its own.
    """
    found = [(number, "") for number, check in node.checks if not check(value)]
    # entries of a list are named by their index, e.g. cost.inference.0.batch
    entries = dict(enumerate(value)) if isinstance(value, list) else value
    if node.below and isinstance(entries, dict):
        for key, below in node.below.items():
            for name in entries if key == "*" else (key,):
                for number, rest in _wrong(below, entries.get(name)):
                    found.append((number, f"{name}.{rest}" if rest else str(name)))
    return found
