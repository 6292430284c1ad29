"""What a record must hold to be reported: a check for each dotted place, and what breaks one.

In a place, * is every key of a mapping and every entry of a list.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from petlbench.report.costs import COSTS
from petlbench.run.record import STATUSES, Record

Check = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str)


def mapping(value: Any) -> bool:
    return isinstance(value, dict)


def number(value: Any) -> bool:
    """A finite one: JSON of other programs may hold NaN and Infinity."""
    figure = isinstance(value, int | float) and not isinstance(value, bool)
    return figure and math.isfinite(value)


def whole(value: Any) -> bool:
    return type(value) is int


def numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(number, value))


def listing(value: Any) -> bool:
    return isinstance(value, list)


def optional(check: Check) -> Check:
    """Missing or null, or what `check` wants."""
    return lambda value: value is None or check(value)


def _above(place: str) -> list[str]:
    """The places that hold this one: a.b.c is in a and a.b."""
    return list(accumulate(place.split("."), "{}.{}".format))[:-1]


FIGURES = [f"cost.{cost.path}" for cost in COSTS.values()]
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
    "cost": mapping,
    "provenance": mapping,
    **dict.fromkeys(("factors.method", "factors.backbone", "factors.task"), text),
    **dict.fromkeys(("factors.draw", "factors.seed"), whole),
    "config.train": mapping,
    **dict.fromkeys(("config.backbone", "config.input", "config.dataset"), optional(mapping)),
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
SCORED: dict[str, Check] = {"scores": bool}  # probes are costs alone


def broken(record: Record) -> list[str]:
    """The places of a record that are missing or wrong."""
    finished = record.get("status") == "finished"
    scored = finished and record.get("protocol") != "probe"
    checks = [EVERY, FINISHED if finished else {}, SCORED if scored else {}]
    found = {
        name: None
        for rules in checks
        for place, check in rules.items()
        for name, value in _found(record, place.split("."))
        if not check(value)
    }
    return list(found)


def _found(node: Any, place: list[str], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of all that a place means; None for what is missing.

    Nothing below what cannot hold it: that has a check of its own.
    """
    if not place:
        yield above.removesuffix("."), node
        return
    entries = dict(enumerate(node)) if isinstance(node, list) else node
    if isinstance(entries, Mapping):
        for key in entries if place[0] == "*" else place[:1]:
            yield from _found(entries.get(key), place[1:], f"{above}{key}.")
