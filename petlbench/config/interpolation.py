"""Interpolations of a plain configuration, and its values with the types of the schema.

OmegaConf's results, without a tree of OmegaConf for each configuration.
"""

import copy
import json
import os
import re
from collections.abc import Mapping
from dataclasses import make_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from petlbench.config.construct import composable
from petlbench.config.schema import Settings

MISSING = "???"
REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")
VARIABLE = re.compile(r"\$\{oc\.env:(\w+)")
OTHER_RESOLVER = re.compile(r"\$\{(?!oc\.env:)[\w.]+:")
Plain = dict[str, Any]


class NotCovered(Exception):
    """Only Hydra can compose this combination, or can say what is wrong with it."""


def resolved(plain: Plain) -> Plain:
    """Values with their types, without interpolations. Raises NotCovered if one is missing."""
    try:
        values = _Values(plain).all(plain)
    except RecursionError as error:
        raise NotCovered("a value refers to itself") from error
    return {key: _typed(key, _text(value)) for key, value in values.items()}


class _Values:
    """Evaluates interpolations of a plain configuration."""

    def __init__(self, plain: Plain) -> None:
        self.plain = plain

    def all(self, node: Any) -> Any:
        """A copy of a node, each interpolation replaced by its value."""
        if isinstance(node, dict):
            return {key: self.all(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.all(value) for value in node]
        return self.value(node) if isinstance(node, str) and "${" in node else node

    def value(self, text: str) -> Any:
        whole = REFERENCE.fullmatch(text)
        if whole:
            return self.at(whole[1])
        if "${." in text or "\\" in text:
            raise NotCovered(text)  # relative to its place, or escaped
        known = {path: self.at(path) for path in REFERENCE.findall(text)}
        return _evaluated(text, known)

    def at(self, path: str) -> Any:
        node: Any = self.plain
        for key in path.split("."):
            if not isinstance(node, dict) or key not in node:
                raise NotCovered(path)
            node = node[key]
        return self.all(node)


def _evaluated(text: str, known: Mapping[str, Any]) -> Any:
    """An interpolation with resolvers, evaluated by OmegaConf beside the values it refers to."""
    if OTHER_RESOLVER.search(text):
        return _by_omegaconf(text, known)  # it may read files, which change
    read = tuple(os.environ.get(name) for name in VARIABLE.findall(text))
    return copy.deepcopy(_remembered(text, _text(known), read))


@cache
def _remembered(text: str, known: str, read: tuple[str | None, ...]) -> Any:
    """The value of a text that depends on other values and variables of the environment alone.

    known: JSON. read: the variables that the text names.
    """
    return _by_omegaconf(text, json.loads(known))


def _by_omegaconf(text: str, known: Mapping[str, Any]) -> Any:
    config = OmegaConf.create({"text": text})
    for path, value in known.items():
        OmegaConf.update(config, path, value)
    return OmegaConf.to_container(config, resolve=True)["text"]  # type: ignore[index, call-overload]


def _text(value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise NotCovered(str(error)) from error


def _typed(key: str, text: str) -> Any:
    """A top-level value with the types of the schema; a new object at each call."""
    return copy.deepcopy(_converted(key, text))


@cache
def _converted(key: str, text: str) -> Any:
    if MISSING in text:
        raise NotCovered(key)
    merged = OmegaConf.merge(_schema(key), {key: json.loads(text)})
    plain = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    return plain[key]  # type: ignore[index, call-overload]


@cache
def _schema(key: str) -> DictConfig:
    """The schema of one top-level key: merging into all of them costs 20 ms."""
    hints = get_type_hints(composable(Settings))
    if key not in hints:
        raise NotCovered(key)
    schema: DictConfig = OmegaConf.structured(make_dataclass("Part", [(key, hints[key])]))
    return schema
