"""The rows of a table: their labels, their order, and the suites that decide it."""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from petlbench.config import options
from petlbench.report.select import value_of
from petlbench.run.record import Record

SOURCE = "/source/"  # before the name of a source among a task's defaults


def labels(records: Sequence[Record], vary: Mapping[str, str]) -> dict[str, str]:
    """Record -> row: the title, the method's name where titles clash, the values that vary."""
    named: dict[str, set[str]] = {}
    for record in records:
        named.setdefault(record["title"], set()).add(record["factors"]["method"])
    return {record["id"]: _label(record, named, vary) for record in records}


def _label(record: Record, named: Mapping[str, set[str]], vary: Mapping[str, str]) -> str:
    title, method = record["title"], record["factors"]["method"]
    told = title if len(named[title]) == 1 else f"{title} [{method}]"
    values = ", ".join(
        f"{name} {'none' if (value := value_of(record, key)) is None else value}"
        for key, name in vary.items()
        if _has(record, key)
    )
    return f"{told} ({values})" if values else told


def _has(record: Record, dotted: str) -> bool:
    parent, _, key = dotted.rpartition(".")
    node = value_of(record, parent) if parent else record["config"]
    return isinstance(node, Mapping) and key in node


def ordered(
    records: Sequence[Record], labels: Mapping[str, str], vary: Sequence[str]
) -> list[str]:
    """Labels: traditional methods first, then in the paper's order, by name, by varied values."""
    order = listed("method", "paper")

    def place(record: Record) -> tuple[Any, ...]:
        method = record["factors"]["method"]
        known = order.index(method) if method in order else len(order)
        values = [_sortable(value_of(record, key)) for key in vary]
        return family_of(method) == "PETL", known, method, values, labels[record["id"]]

    return list(dict.fromkeys(labels[record["id"]] for record in sorted(records, key=place)))


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return 1, float(value), ""
    return (0 if value is None else 2), 0.0, str(value)


def family_of(method: str) -> str:
    """`traditional` where the method's yaml says so, else `PETL`."""
    return str(options.content("method", method).get("family", "PETL"))


def listed(group: str, name: str) -> list[str]:
    """What a suite lists, suites in it expanded; the name itself where it is no suite."""
    return options.expand([name], partial(options.listed, group))


def described(task: str) -> tuple[str, str]:
    """Title and group of a task, from its yaml and the source that this names."""
    own = options.content("dataset", task)
    names = [name for name in own.get("defaults", []) if name.startswith(SOURCE)]
    parents = [name.removeprefix(SOURCE).partition("@")[0] for name in names]
    sources = [options.content("source", name).get("dataset", {}) for name in parents]
    found: dict[str, Any] = dict(ChainMap(own, *sources))
    return found.get("title", task), found.get("group", "")


def grouped(suite: str) -> dict[str, list[str]]:
    """Group -> titles of the tasks of a suite, in the order of its yaml."""
    found: dict[str, list[str]] = {}
    for task in listed("dataset", suite):
        content = options.content("dataset", task)
        found.setdefault(content["group"], []).append(content["title"])
    return found
