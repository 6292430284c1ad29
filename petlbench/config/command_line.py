"""Overrides of the command line before Hydra reads them."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from petlbench.config.schema import Settings

# the schema leaves `dataset` open, so its keys with texts are listed here
DATASET_TEXTS = ("dataset.root", "dataset.cache", "dataset.name", "dataset.title")


def quoted(arguments: Sequence[str]) -> list[str]:
    """Quote values of text keys that Hydra would read as numbers, such as results.root=2024_01."""
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key, sign, value = argument.partition("=")
    if not sign or key.lstrip("+") not in text_keys():
        return argument
    try:
        override = OverridesParser.create().parse_overrides([argument])[0]
    except HydraException:
        return argument  # Hydra will say what is wrong with it
    if override.is_sweep_override() or not isinstance(override.value(), int | float):
        return argument
    return f"{key}='{value.strip()}'"  # in Hydra's grammar a quoted value is a text


@cache
def text_keys() -> frozenset[str]:
    """Dotted names of all keys whose values are texts."""
    return frozenset([*_text_keys(Settings, ""), *DATASET_TEXTS])


def _text_keys(schema: type, prefix: str) -> list[str]:
    hints, names = get_type_hints(schema), []
    for part in fields(schema):
        hint = hints[part.name]
        kinds: tuple[Any, ...] = get_args(hint) or (hint,)
        # the arguments of list[str] are those of str alone
        names += [f"{prefix}{part.name}"] * (str in kinds and get_origin(hint) not in (list, dict))
        for kind in kinds:
            if is_dataclass(kind):
                names += _text_keys(kind, f"{prefix}{part.name}.")  # type: ignore[arg-type]
    return names
