"""Which records make a table, and the refusal to average over different settings."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from petlbench.errors import UserError, unknown
from petlbench.report.view import View
from petlbench.run.identity import IDENTITY, PLACES
from petlbench.run.record import Record

CELL = ("method", "backbone", "task")
PER_RUN = ("dataset.draw", *PLACES)  # what may differ between the runs of one cell
MAX_KEYS = 4  # of differing settings in one line


def settled(records: Sequence[Record], view: View) -> View:
    """The view with the suite and the backbone that it leaves open.

    Raises UserError where there are no records, none of the suite or protocol, or two backbones.
    """
    if not records:
        raise UserError("this report needs records; add --records DIR, the results.root of runs")
    if view.suite is None:
        suites = Counter(r["suite"] for r in records if r["protocol"] == view.protocol)
        suites = suites or Counter(r["suite"] for r in records)
        view = replace(view, suite=suites.most_common(1)[0][0])
    found = _of_protocol(_of_suite(records, view), view)
    backbones = sorted({record["factors"]["backbone"] for record in found})
    if view.backbone is None and len(backbones) > 1:
        raise UserError(
            f"records of {len(backbones)} backbones ({', '.join(backbones)}) make no common "
            f"table; add --backbone {backbones[0]}"
        )
    if view.backbone is not None and view.backbone not in backbones:
        raise unknown("backbone among the records", view.backbone, backbones)
    return replace(view, backbone=backbones[0]) if view.backbone is None else view


def chosen_from(records: Sequence[Record], view: View) -> list[Record]:
    """The records of a settled view, in the given order.

    Raises UserError where finished runs of one cell differ in more than draw, seed and what the
    view varies.
    """
    found = [
        record
        for record in _of_protocol(_of_suite(records, view), view)
        if record["factors"]["backbone"] == view.backbone
    ]
    for key in view.vary if found else ():
        if all(value_of(record, key) is None for record in found):
            raise UserError(f"no record has a value '{key}'; --cfg job of a run prints its keys")
    _refuse_mixtures([r for r in found if r["status"] == "finished"], list(view.vary))
    return found


def _of_suite(records: Sequence[Record], view: View) -> list[Record]:
    ours = [record for record in records if record["suite"] == view.suite]
    if not ours:
        present = {record["suite"] for record in records}
        raise unknown("suite among the records", str(view.suite), present)
    return ours


def _of_protocol(records: Sequence[Record], view: View) -> list[Record]:
    found = [record for record in records if record["protocol"] == view.protocol]
    if not found:
        present = {record["protocol"] for record in records}
        raise unknown("protocol among the records", view.protocol, present)
    return found


def value_of(record: Record, dotted: str) -> Any:
    """A value of the configuration by its dotted key, for example method.rank; None if absent."""
    node: Any = record["config"]
    for key in dotted.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _refuse_mixtures(finished: Sequence[Record], vary: Sequence[str]) -> None:
    runs: dict[tuple[Any, ...], Record] = {}
    cells: dict[tuple[Any, ...], Record] = {}
    for record in finished:
        factors = record["factors"]
        varied = tuple(str(value_of(record, key)) for key in vary)
        other = runs.setdefault((*factors.values(), *varied), record)
        if other["id"] != record["id"]:
            raise _mixture(factors, differing(other, record, IDENTITY))
        other = cells.setdefault((*(factors[key] for key in CELL), *varied), record)
        settings = differing(other, record, [key for key in IDENTITY if key != "seed"])
        if found := {key: pair for key, pair in settings.items() if key not in PER_RUN}:
            raise _mixture({key: factors[key] for key in CELL}, found)


def _mixture(factors: Mapping[str, Any], found: Mapping[str, Any]) -> UserError:
    cell = " ".join(f"{key}={value}" for key, value in factors.items())
    pairs = [f"{key} ({first}, {second})" for key, (first, second) in found.items()]
    more = f" and {len(pairs) - MAX_KEYS} more" if len(pairs) > MAX_KEYS else ""
    told = ", ".join(pairs[:MAX_KEYS]) + more or "nothing that their configurations show"
    key = next(iter(found), "method.rank")
    return UserError(
        f"two finished runs of {cell} differ in {told}; a table never averages over settings: "
        f"make rows of them (--vary {key}), or keep them in folders of their own"
    )


def differing(first: Record, second: Record, keys: Sequence[str]) -> dict[str, Any]:
    """The values below `keys` that differ, for example {"train.lr": (0.01, 0.1)}."""
    ours, theirs = (
        {key: record["config"][key] for key in keys if key in record["config"]}
        for record in (first, second)
    )
    return dict(_differing(ours, theirs))


def _differing(first: Any, second: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            below = f"{name}.{key}" if name else key
            yield from _differing(first.get(key), second.get(key), below)
    elif first != second:
        yield name, (first, second)
