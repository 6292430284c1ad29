"""Former names of classes and functions in records and deltas (renamed.yaml)."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from petlbench.config.yaml_text import parsed


def current_name(node: Mapping[str, Any]) -> dict[str, Any]:
    """A `_target_` node of an earlier record or delta, under the names of today."""
    for row in _table():
        # one former class may be two of today, which its values distinguish
        values = row.get("with", {})
        if node.get("_target_") == row["formerly"] and values.items() <= dict(node).items():
            rest = {key: value for key, value in node.items() if key not in values}
            return {**rest, "_target_": row["name"]}
    return dict(node)


def first_name(node: Mapping[str, Any]) -> dict[str, Any]:
    """A `_target_` node under its first name, with the values that it had then."""
    for row in _table():
        if node.get("_target_") == row["name"]:
            return {**row.get("with", {}), **node, "_target_": row["formerly"]}
    return dict(node)


@cache
def _table() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parsed(
        (resources.files("petlbench.config") / "renamed.yaml").read_text()
    )
    return rows
