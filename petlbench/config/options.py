"""The options of each configuration group, e.g. the methods, and what their yaml files hold."""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from petlbench.config.search_path import packages
from petlbench.config.yaml_text import parsed
from petlbench.errors import UserError, one_line

log = logging.getLogger("petlbench")
SuiteOf = Callable[[str], Sequence[str] | None]
GLOBAL = "@package _global_"  # in the header of a yaml that sets keys outside its group
OPEN_GROUPS = ("method", "dataset", "protocol")  # whose options have keys of their own


def names(group: str) -> list[str]:
    """The options of a group, sorted, e.g. mini/digits; a name of this project wins."""
    return sorted(_files(group))


def content(group: str, name: str) -> dict[str, Any]:
    """The values of an option's yaml; empty if there is no such option.

    Raises UserError if the file is not a yaml mapping.
    """
    return copy.deepcopy(dict(shared_content(group, name)))


def shared_content(group: str, name: str) -> Mapping[str, Any]:
    """`content` without a copy: callers do not change it."""
    file = _files(group).get(name)
    try:
        values = _parsed(file.read_text()) if file is not None else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}' is not yaml: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{file}' holds a {type(values).__name__}; it must map keys to values")
    return values


@cache  # by the text, so that a changed file is seen: a sweep reads an option for each run
def _parsed(text: str) -> Any:
    return parsed(text) or {}  # yaml reads an empty file as None


def contents(group: str) -> dict[str, dict[str, Any]]:
    """The values of every option of a group; a broken file is left out with a warning."""
    values: dict[str, dict[str, Any]] = {}
    for name in names(group):
        try:
            values[name] = content(group, name)
        except UserError as error:
            # a broken file of one package must not hide the options of all
            log.warning("warning: %s; %s=%s is left out", error, group, name)
    return values


def having(key: str) -> tuple[str, list[str]] | None:
    """The group whose options decide whether a dotted key exists, and those that set it."""
    for group in OPEN_GROUPS:
        found = [name for name in names(group) if _sets(group, name, key)]
        if found:
            return group, found
    return None


def _sets(group: str, name: str, key: str) -> bool:
    """Whether the yaml of an option sets a dotted key of the configuration."""
    if GLOBAL not in text(group, name):
        node, _, key = key.partition(".")
        if node != group:
            return False
    values: Any = shared_content(group, name)
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def listed(group: str, name: str) -> list[str] | None:
    """The members of a suite; None if the option is not one. A task's yaml may name its suite."""
    return members(group, content(group, name))


def members(group: str, values: Mapping[str, Any]) -> list[str] | None:
    """The members of a suite with these values; None if they are those of another option.

    `suite` is a list of options, or {without: KEY}: all options of the group, but suites and those
    whose yaml says `KEY: true`.
    """
    suite = values.get("suite")
    if isinstance(suite, Mapping):
        every, key = contents(group).items(), str(suite.get("without"))
        return [name for name, own in every if "suite" not in own and not own.get(key)]
    return suite if isinstance(suite, list) else None


def expand(names: Iterable[str], suite_of: SuiteOf) -> list[str]:
    """Names with every suite replaced by what it lists, each name once, in order.

    suite_of: the members of a name, or None if it is not a suite. Suites may list suites.
    """
    return list(dict.fromkeys(_expanded(names, suite_of, ())))


def _expanded(names: Iterable[str], suite_of: SuiteOf, above: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        # `above` is the path to this suite: several suites may list the same one
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
    files: dict[str, Traversable] = {}
    for package in packages():
        folder = resources.files(package) / group
        for name, file in _walk(folder) if folder.is_dir() else ():
            files.setdefault(name, file)  # the first package is this project
    return files


def _walk(folder: Traversable) -> Iterator[tuple[str, Traversable]]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from ((f"{item.name}/{name}", file) for name, file in _walk(item))
        elif item.name.endswith(".yaml"):
            yield item.name.removesuffix(".yaml"), item
