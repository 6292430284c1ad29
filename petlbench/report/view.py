"""What a report shows: the `report` node of a conf/experiment/*.yaml, or a kind as it is.

report:
  kind: table                      # a module of petlbench.report.kinds
  title: Accuracy on VTAB-1K
  suite: vtab                      # all its tasks are columns; default: the tasks there are, of
                                   # the suite with most records
  protocol: final
  backbone: vit_b16                # default: the one that all records have
  vary: {method.rank: rank}        # configuration values that make rows of their own
  published: [FILE]                # of results/published, without .csv: rows of their own
  ...                              # options of the kind: keywords of its `build`
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

from petlbench.config import options
from petlbench.errors import UserError, unknown
from petlbench.report import kinds


@dataclass(frozen=True)
class View:
    """Which records make a report of which kind; `options` are the kind's own."""

    kind: str
    title: str
    suite: str | None
    protocol: str
    backbone: str | None
    vary: Mapping[str, str]
    published: tuple[str, ...]
    options: Mapping[str, Any]


COMMON: dict[str, Any] = {
    "suite": None,
    "protocol": "final",
    "backbone": None,
    "vary": {},
    "published": [],
}


def names() -> dict[str, str]:
    """Every name that a report can be asked for by, and its title."""
    views = {name: node["title"] for name, node in _nodes().items()}
    return views | {kind: module(kind).VIEW["title"] for kind in _kinds() if kind not in views}


def find(name: str) -> View:
    """The view of an experiment, or a kind with its defaults."""
    nodes = _nodes()
    if name not in nodes and name not in _kinds():
        raise unknown("report", name, names())
    node = nodes.get(name, {"kind": name})
    if node.get("kind") not in _kinds():
        raise unknown(f"kind of report '{name}'", str(node.get("kind")), _kinds())
    values = COMMON | dict(module(node["kind"]).VIEW) | node
    own = {field.name for field in fields(View)}
    options = {key: value for key, value in values.items() if key not in own}
    view = View(**{key: values[key] for key in own - {"options"}}, options=options)
    return _checked(name, view)


def module(kind: str) -> ModuleType:
    """The module of a kind: `build` makes its report, `VIEW` holds what its views leave open."""
    return importlib.import_module(f"{kinds.__name__}.{kind}")


def _checked(name: str, view: View) -> View:
    known = [
        key
        for key, parameter in inspect.signature(module(view.kind).build).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    for key in view.options:
        if key not in known:
            raise unknown(f"option of report '{name}' ({view.kind})", key, known)
    if not isinstance(view.vary, Mapping):
        raise UserError(f"report '{name}': vary is {view.vary}; it must map keys to titles")
    return view


def _nodes() -> dict[str, dict[str, Any]]:
    contents = {name: options.content("experiment", name) for name in options.names("experiment")}
    return {name: content["report"] for name, content in contents.items() if "report" in content}


def _kinds() -> list[str]:
    return [found.name for found in pkgutil.iter_modules(kinds.__path__)]
