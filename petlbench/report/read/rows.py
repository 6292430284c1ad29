"""The rows of a table: their labels, and their order in the suites."""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from petlbench.config import options
from petlbench.report.read.fields import config_value
from petlbench.run.record import Record

FAMILIES = ("traditional", "PETL")  # in tables before all others, such as those of a library
SOURCE = "/source/"  # before the name of a source among a task's defaults


def labels(records: Sequence[Record], vary: Mapping[str, str]) -> dict[str, str]:
    """Record id -> row: the title, the method's name if titles clash, and the varied values."""
    methods: dict[str, set[str]] = {}
    for record in records:
        methods.setdefault(record["title"], set()).add(record["factors"]["method"])
    return {record["id"]: _label(record, methods, vary) for record in records}


def _label(record: Record, methods: Mapping[str, set[str]], vary: Mapping[str, str]) -> str:
    title, method = record["title"], record["factors"]["method"]
    label = title if len(methods[title]) == 1 else f"{title} [{method}]"
    values = ", ".join(
        f"{name} {'none' if (value := config_value(record, key)) is None else value}"
        for key, name in vary.items()
        if _has(record, key)
    )
    return f"{label} ({values})" if values else label


def _has(record: Record, dotted: str) -> bool:
    parent, _, key = dotted.rpartition(".")
    # a value that is null is printed, one that the method does not have is not
    node = config_value(record, parent) if parent else record["config"]
    return isinstance(node, Mapping) and key in node


def ordered(
    records: Sequence[Record], labels: Mapping[str, str], vary: Sequence[str]
) -> list[str]:
    """Labels by family, then in the paper's order, by name, by varied values."""
    order = members("method", "paper")

    @cache
    def of_method(method: str) -> tuple[Any, ...]:
        paper_place = order.index(method) if method in order else len(order)
        own = family(method)
        place = FAMILIES.index(own) if own in FAMILIES else len(FAMILIES)
        return place, own, paper_place, method

    def place(record: Record) -> tuple[Any, ...]:
        values = [_sortable(config_value(record, key)) for key in vary]
        return *of_method(record["factors"]["method"]), values, labels[record["id"]]

    return list(dict.fromkeys(labels[record["id"]] for record in sorted(records, key=place)))


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        # the first entry keeps none, numbers and texts apart, which cannot be compared
        return 1, float(value), ""
    return (0 if value is None else 2), 0.0, str(value)


def family(method: str) -> str:
    """What the method's yaml says, such as `traditional`, or else `PETL`."""
    return str(options.content("method", method).get("family", "PETL"))


def is_baseline(method: str) -> bool:
    """Whether the method's yaml says that it is a cheap baseline."""
    return bool(options.content("method", method).get("baseline"))


def members(group: str, name: str) -> list[str]:
    """The members of a suite, nested suites expanded; the name itself if it is not a suite."""
    return options.expand([name], partial(options.listed, group))


def described(task: str) -> tuple[str, str]:
    """Title and group of a task, from its yaml and the source that the yaml names."""
    own = options.content("dataset", task)
    # e.g. /source/vtab@_global_
    names = [name for name in own.get("defaults", []) if name.startswith(SOURCE)]
    parents = [name.removeprefix(SOURCE).partition("@")[0] for name in names]
    sources = [options.content("source", name).get("dataset", {}) for name in parents]
    # the task's own values win
    values: dict[str, Any] = dict(ChainMap(own, *sources))
    return values.get("title", task), values.get("group", "")


def tasks_by_group(suite: str) -> dict[str, list[str]]:
    """Group -> titles of the tasks of a suite, in the order of its yaml."""
    titles: dict[str, list[str]] = {}
    for task in members("dataset", suite):
        content = options.content("dataset", task)
        titles.setdefault(content["group"], []).append(content["title"])
    return titles
