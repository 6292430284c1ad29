"""The options of each configuration group, e.g. the methods, and what their yaml files hold."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from importlib.abc import Traversable
from typing import Any

import yaml

from petlbench.config.search_path import OWN, packages
from petlbench.errors import UserError

SuiteOf = Callable[[str], Sequence[str] | None]


def names(group: str) -> list[str]:
    """The options of a group, sorted, e.g. mini/digits; a name of this project wins."""
    return sorted(_files(group))


def content(group: str, name: str) -> dict[str, Any]:
    """What an option's yaml says; empty where there is no such option."""
    file = _files(group).get(name)
    try:
        found = (yaml.safe_load(file.read_text()) if file is not None else None) or {}
    except yaml.YAMLError as error:
        raise UserError(f"'{file}' is no yaml: {_compact(error)}") from error
    if not isinstance(found, dict):
        raise UserError(f"'{file}' holds a {type(found).__name__}; it must map keys to values")
    return found


def listed(group: str, name: str) -> list[str] | None:
    """What a suite lists, or None where the option is none; a task's yaml may name its suite."""
    suite = content(group, name).get("suite")
    return suite if isinstance(suite, list) else None


def expand(names: Iterable[str], suite_of: SuiteOf) -> list[str]:
    """Names with every suite replaced by what it lists, each name once, in order.

    suite_of: what a name lists, or None if it is no suite. Suites may list suites.
    """
    return list(dict.fromkeys(_expanded(names, suite_of, ())))


def _expanded(names: Iterable[str], suite_of: SuiteOf, above: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if name in above:
            raise UserError(f"suite '{name}' contains itself: {' > '.join((*above, name))}")
        listed = suite_of(name)
        if listed is None:
            yield name
        else:
            yield from _expanded(listed, suite_of, (*above, name))


def text(group: str, name: str) -> str:
    """An option's yaml as it is written."""
    return _files(group)[name].read_text()


@cache
def _files(group: str) -> dict[str, Traversable]:
    found: dict[str, Traversable] = {}
    for package in packages():
        try:
            folder = resources.files(package) / group
        except Exception as error:  # whatever the code of another package does on import
            raise UserError(
                f"an installed package names '{package}' as its configuration (entry point {OWN})"
                f", and that is no package to import: {_compact(error)}; repair or uninstall it"
            ) from error
        for name, file in _walk(folder) if folder.is_dir() else ():
            found.setdefault(name, file)
    return found


def _compact(error: Exception) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _walk(folder: Traversable) -> Iterator[tuple[str, Traversable]]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from ((f"{item.name}/{name}", file) for name, file in _walk(item))
        elif item.name.endswith(".yaml"):
            yield item.name.removesuffix(".yaml"), item
