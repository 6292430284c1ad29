"""Checks of a record, by all who read one and before one is written as finished.

They cover the type of the value at each dotted place, where * stands for every key of a mapping
and every entry of a list; the values of scores; and what JSON cannot hold.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, chain
from typing import Any

from petlbench.checks import is_number, is_whole
from petlbench.config.job_nodes import PROBE
from petlbench.cost.figures import COSTS

Check = Callable[[Any], bool]
STATUSES = ("finished", "failed", "out_of_memory", "diverged", "unsupported")
DEEPEST = 30  # levels of a record; readers walk it by recursion
MANY = 20  # numbers, from which on a list is checked as a whole
LARGEST = sys.float_info.max
# of JSON, one kind for both; with a backslash, which may hide a quotation mark, nothing is sure
BRACKETS = bytes.maketrans(b"{}", b"[]")
OTHERS = bytes(sign for sign in range(256) if sign not in b'[]{}"\\')
TOLERANCE = 1e-6  # of a percentage, for the rounding of sums


def text(value: Any) -> bool:
    """Whether a value is a string."""
    return isinstance(value, str)


def mapping(value: Any) -> bool:
    """Whether a value is a dictionary."""
    return isinstance(value, dict)


def numbers(value: Any) -> bool:
    """Whether a value is a list of finite numbers."""
    return isinstance(value, list) and all(map(is_number, value))


def score(value: Any) -> bool:
    """Whether a value is a score: 0 <= correct <= total, and top1 is their ratio in percent."""
    if not isinstance(value, dict):
        return False
    top1, correct, total = (value.get(key) for key in ("top1", "correct", "total"))
    if not (is_number(top1) and is_whole(correct) and is_whole(total) and total > 0):
        return False
    is_ratio = math.isclose(top1, 100 * correct / total, rel_tol=0, abs_tol=TOLERANCE)
    return 0 <= correct <= total and is_ratio


def percentage(value: Any) -> bool:
    """Whether a value is a number from 0 to 100."""
    return is_number(value) and 0 <= value <= 100


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
    "status": lambda value: value in STATUSES,
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
    **dict.fromkeys(("factors.draw", "factors.seed"), is_whole),
    "config.train": mapping,
    **dict.fromkeys(
        ("config.backbone", "config.input", "config.dataset", "config.method", "config.protocol"),
        optional(mapping),
    ),
    **dict.fromkeys(("config.backbone.mean", "config.backbone.std"), optional(numbers)),
    "scores.*.top1": percentage,
    "scores.*": score,
    "selection.scores": optional(mapping),
    "selection.scores.*": mapping,
    "selection.scores.*.*": percentage,
    "notes": optional(mapping),
    **dict.fromkeys(FIGURES, optional(is_number)),
    "cost.memory_modes.*": mapping,
    "cost.memory_modes.*.predicted_mib": optional(mapping),
    "cost.memory_modes.*.peak_mib": optional(mapping),
    "cost.inference": optional(listing),
    "cost.inference.*": mapping,
    "cost.inference.*.batch": is_whole,
    **dict.fromkeys(
        ("cost.inference.*.images_per_s", "cost.inference.*.spread"), optional(is_number)
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
    "provenance.seconds": is_number,
    "provenance.versions": mapping,
    "provenance.versions.torch": text,
}
SCORED: dict[str, Check] = {"scores": bool}  # a probe has costs only


def broken(record: dict[str, Any]) -> list[str]:
    """The dotted places of a record whose value is missing or wrong."""
    foreign = () if _is_json(record) else _foreign(record)
    return list(dict.fromkeys([*wrong(record), *foreign]))


def wrong(record: dict[str, Any]) -> list[str]:
    """`broken` of a record that a strict parser of JSON has read and that `is_shallow`."""
    finished = record.get("status") == "finished"
    scored = finished and record.get("protocol") != PROBE
    return [name for _, name in sorted(_wrong(_tree(finished, scored), record))]


def is_shallow(record: dict[str, Any], text: bytes) -> bool:
    """Whether a record, and its JSON, has at most DEEPEST levels."""
    return _is_nested_little(text) or _has_few_levels(record)


def _is_nested_little(text: bytes) -> bool:
    """The answer from the brackets of a JSON alone, which is fast; True is sure."""
    left = text.translate(BRACKETS, OTHERS).replace(b'""', b"")  # strings without a bracket
    for _ in range(DEEPEST):
        if not left:
            return True
        left = left.replace(b"[]", b"")  # the innermost level
    return not left


def _has_few_levels(record: dict[str, Any]) -> bool:
    level: list[Any] = [record]
    for _ in range(DEEPEST):
        level = [
            value
            for node in level
            for value in (node.values() if type(node) is dict else node)
            if type(value) is dict or type(value) is list
        ]
        if not level:
            return True
    return False


def _is_json(node: Any, depth: int = 0) -> bool:
    """False if `_foreign` may have something to name: naming takes five times as long."""
    values = node.values() if isinstance(node, dict) else node
    # all at once: most values of a record are the numbers of its curve
    if len(values) > MANY and set(map(type, values)) in ({int}, {float}):
        return is_number(sum(map(abs, values)))
    for value in values:
        kind = type(value)
        if kind is str:
            plain = value.isascii()
        elif kind is dict or kind is list:
            plain = depth + 1 < DEEPEST and _is_json(value, depth + 1)
        elif kind is float or kind is int:
            plain = -LARGEST <= value <= LARGEST
        else:
            plain = value is None or kind is bool
        if not plain:
            return False
    return True


def _foreign(node: Any, above: str = "", depth: int = 0) -> Iterator[str]:
    """Dotted names of values below that are no finite numbers, texts, flags, lists or mappings."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if not isinstance(value, dict | list):
            if not _is_plain(value):
                yield f"{above}{key}"
        elif depth + 1 == DEEPEST:
            yield f"{above}{key}"
        else:
            yield from _foreign(value, f"{above}{key}.", depth + 1)


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold a value that is no list and no mapping."""
    if isinstance(value, str):
        # JSON may name half a pair of surrogates, which no file of a report can hold
        return value.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in value)
    return value is None or isinstance(value, bool) or is_number(value)


def plain(node: Any) -> Any:
    """Remarks of a method as JSON can hold them; other values become texts."""
    if isinstance(node, Mapping):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [plain(value) for value in node]
    return node if _is_plain(node) else str(node)


@dataclass
class _Node:
    """The checks of a place, each with its position in the tables above, and the places below.

    optional: whether all checks accept a missing value; most of a record's costs are missing.
    """

    checks: list[tuple[int, Check]] = field(default_factory=list)
    below: dict[str, "_Node"] = field(default_factory=dict)
    optional: bool = True


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
        node.optional &= check(None)
    return root


def _wrong(node: _Node, value: Any) -> list[tuple[int, str]]:
    """Position and dotted name of each wrong value below a node; a missing one is None.

    Nothing below a value that is no container: the container has a check of its own.
    """
    # entries of a list are named by their index, e.g. cost.inference.0.batch
    entries = dict(enumerate(value)) if isinstance(value, list) else value
    found: list[tuple[int, str]] = []
    if not isinstance(entries, dict):
        return found
    for key, below in node.below.items():
        for name in entries if key == "*" else (key,):
            entry = entries.get(name)
            if entry is None and below.optional:
                continue
            for number, check in below.checks:
                if not check(entry):
                    found.append((number, str(name)))
            if entry is not None and below.below and (wrong := _wrong(below, entry)):
                found += [(number, f"{name}.{rest}") for number, rest in wrong]
    return found
