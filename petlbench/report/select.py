"""Which records make a table, and the refusal to average over different settings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from petlbench.errors import UserError, unknown
from petlbench.record import IDENTITY, Record

CELL = ("method", "backbone", "task")
MAX_KEYS = 4  # of differing settings in one line


def chosen_from(records: Sequence[Record], suite: str, protocol: str) -> list[Record]:
    """The records of one suite and protocol, in the given order.

    Raises UserError where there is none, or where finished runs of one cell differ in more than
    draw and seed.
    """
    ours = [record for record in records if record["suite"] == suite]
    if not ours:
        raise unknown("suite among the records", suite, {record["suite"] for record in records})
    found = [record for record in ours if record["protocol"] == protocol]
    if not found:
        present = {record["protocol"] for record in ours}
        raise unknown("protocol among the records", protocol, present)
    _refuse_mixtures([record for record in found if record["status"] == "finished"])
    return found


def _refuse_mixtures(finished: Sequence[Record]) -> None:
    runs: dict[tuple[Any, ...], Record] = {}
    cells: dict[tuple[Any, ...], Record] = {}
    for record in finished:
        factors = record["factors"]
        other = runs.setdefault(tuple(factors.values()), record)
        if other["id"] != record["id"]:
            raise _mixture(factors, differing(other, record, IDENTITY))
        # A draw may be another file, so the data may differ within a cell; nothing else may.
        other = cells.setdefault(tuple(factors[key] for key in CELL), record)
        settings = [key for key in IDENTITY if key not in ("seed", "dataset")]
        if found := differing(other, record, settings):
            raise _mixture({key: factors[key] for key in CELL}, found)


def _mixture(factors: Mapping[str, Any], found: Mapping[str, Any]) -> UserError:
    cell = " ".join(f"{key}={value}" for key, value in factors.items())
    pairs = [f"{key} ({first}, {second})" for key, (first, second) in found.items()]
    more = f" and {len(pairs) - MAX_KEYS} more" if len(pairs) > MAX_KEYS else ""
    told = ", ".join(pairs[:MAX_KEYS]) + more or "nothing that their configurations show"
    return UserError(
        f"two finished runs of {cell} differ in {told}; a table never averages over settings: "
        "keep records of different settings in different folders"
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
