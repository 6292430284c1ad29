"""Overrides of the command line before Hydra reads them."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException

from petlbench.config import options
from petlbench.config.schema import Settings
from petlbench.errors import UserError, unknown

GROUPS = ("method", "backbone", "dataset", "protocol", "recipe", "experiment")
NEEDED = ("method", "backbone", "dataset", "protocol", "recipe")
# the schema leaves `dataset` open, so its keys with texts are listed here
DATASET_TEXTS = ("dataset.root", "dataset.cache", "dataset.name", "dataset.title")


def chosen(arguments: Sequence[str]) -> list[str]:
    """The arguments that choose an option of a group."""
    return [text for text in arguments if text.partition("=")[0] in GROUPS]


def check_groups(arguments: Sequence[str]) -> None:
    """Refuse an unknown option, a group without one, and a key that is given twice.

    Before anything slow is imported.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        group, sign, values = argument.partition("=")
        key = group.lstrip("+")
        # of two Hydra would take the last one in silence; `~key` and `key` go together
        if sign and key in given and not argument.startswith(("-", "~")):
            raise UserError(f"'{key}' is given twice ({given[key]} and {values}); give it once")
        if sign:
            given[key] = values
        if sign and not group.lstrip("+~"):
            raise UserError(f"'{argument}' has no key; values are given as KEY=VALUE")
        if group.startswith("~") and group[1:] in NEEDED:
            raise UserError(f"{group[1:]} cannot be left out; a run needs one: {group[1:]}=NAME")
        if sign and group in GROUPS and values.startswith("["):
            raise UserError(
                f"'{argument}' is a list; a sweep with -m names options as {group}=a,b"
            )
        # Other values, such as glob(*) and quoted ones, are left to Hydra's grammar.
        if not sign or group not in GROUPS or not re.fullmatch(r"[\w/,.+*\-]+", values):
            continue
        known = known_options(group, arguments)
        for value in values.split(","):
            if value not in known and (group, value) != ("experiment", "null"):
                raise unknown(group, value, known)


def check_backbone(arguments: Sequence[str]) -> None:
    """Refuse the default backbone for a suite that says `backbone: ask`."""
    if any(text.startswith("backbone=") for text in arguments):
        return
    if any(map(_has_backbone, _named("experiment", arguments))):
        return
    for dataset in _named("dataset", arguments):
        if options.content("dataset", dataset.partition("/")[0]).get("backbone") == "ask":
            names = ", ".join(options.names("backbone"))
            raise UserError(
                f"dataset={dataset} needs a backbone: add backbone=NAME, one of {names}"
            )


def _named(group: str, arguments: Sequence[str]) -> list[str]:
    """The options in what is chosen of a group, also in quotes, choice(...) and glob(...)."""
    texts = [text.partition("=")[2] for text in arguments if text.startswith(f"{group}=")]
    words = [word for text in texts for word in re.findall(r"[\w/.+*?\-]+", text)]
    # Hydra's glob looks into no folder
    known = [name for name in options.names(group) if "/" not in name]
    globs = [fnmatch.filter(known, word) if set("*?") & set(word) else [word] for word in words]
    return list(chain.from_iterable(globs))


def _has_backbone(experiment: str) -> bool:
    """Whether an experiment, or one that it is based on, chooses a backbone."""
    if experiment not in options.names("experiment"):
        return experiment != "null"  # one of --config-dir: Hydra knows
    content = options.content("experiment", experiment)
    params: Any = content
    for key in ("hydra", "sweeper", "params"):
        params = (params.get(key) if isinstance(params, dict) else None) or {}
    entries = content.get("defaults") or []
    above = [entry for entry in entries if isinstance(entry, str) and entry != "_self_"]
    if "backbone" in params:
        return True
    return "override /backbone" in _keys(entries) or any(map(_has_backbone, above))


def _keys(entries: Sequence[Any]) -> set[str]:
    """The keys of the mappings in a list of defaults."""
    return {key for entry in entries if isinstance(entry, dict) for key in entry}


def known_options(group: str, arguments: Sequence[str]) -> list[str]:
    """The options of a configuration group, e.g. mini/digits, with those of --config-dir."""
    pairs = zip(["", *arguments], [*arguments, ""], strict=True)
    own = [value for flag, value in pairs if flag in ("--config-dir", "-cd")]
    own += [text.partition("=")[2] for text in arguments if text.startswith("--config-dir=")]
    folders = [Path(folder) / group for folder in own]
    return options.names(group) + [
        file.relative_to(folder).with_suffix("").as_posix()
        for folder in folders
        for file in folder.glob("**/*.yaml")
    ]


def without_plus(arguments: Sequence[str]) -> list[str]:
    """`+experiment=demo`, the habit of other projects, as `experiment=demo`."""
    # every group has an option already, to which Hydra refuses to add a second one
    return [
        text.lstrip("+") if text.lstrip("+").partition("=")[0] in GROUPS else text
        for text in arguments
    ]


def as_text(text: str) -> str:
    """A text as a value of Hydra's command line, which takes no escapes but before a quote."""
    doubled = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" * bool(match[2])), text)
    return f"'{doubled}'"


def quoted(arguments: Sequence[str]) -> list[str]:
    """Quote values of text keys that Hydra would read as numbers, such as results.root=2024_01.

    Also in a sweep of them, and in a list of texts.
    """
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key, sign, value = argument.partition("=")
    name = key.lstrip("+")
    if not sign or name not in text_keys() | list_keys():
        return argument
    try:
        override = OverridesParser.create().parse_overrides([argument])[0]
    except HydraException:
        return argument  # Hydra will say what is wrong with it
    found, opening, closing = override.value(), "", ""
    if isinstance(found, ChoiceSweep) and found.simple_form:
        found = found.list
    elif isinstance(found, list) and name in list_keys():
        value, opening, closing = value.strip()[1:-1], "[", "]"
    elif isinstance(found, int | float):
        found = [found]
    else:
        return argument
    parts = value.split(",")
    if len(parts) != len(found):  # some have commas of their own
        return argument
    # in Hydra's grammar a quoted value is a text
    texts = (
        f"'{part.strip()}'" if isinstance(one, int | float) else part
        for part, one in zip(parts, found, strict=True)
    )
    return f"{key}={opening}{','.join(texts)}{closing}"


def is_sweep(argument: str) -> bool:
    """Whether an override names several values, as in seed=0,1; False if Hydra cannot read it."""
    try:
        [override] = OverridesParser.create().parse_overrides([argument])
    except HydraException:
        return False
    return override.is_sweep_override()


@cache
def text_keys() -> frozenset[str]:
    """Dotted names of all keys whose values are texts."""
    hints = _hints(Settings, "")
    texts = [name for name, hint in hints.items() if str in (get_args(hint) or (hint,))]
    # the arguments of list[str] are those of str alone
    return frozenset(
        [*(n for n in texts if get_origin(hints[n]) not in (list, dict)), *DATASET_TEXTS]
    )


@cache
def list_keys() -> frozenset[str]:
    """Dotted names of all keys whose values are lists of texts."""
    return frozenset(name for name, hint in _hints(Settings, "").items() if hint == list[str])


def _hints(schema: type, prefix: str) -> dict[str, Any]:
    """The types of all keys of a schema, by their dotted names."""
    hints, found = get_type_hints(schema), dict[str, Any]()
    for part in fields(schema):
        hint = found[f"{prefix}{part.name}"] = hints[part.name]
        for kind in get_args(hint) or (hint,):
            if is_dataclass(kind):
                found |= _hints(kind, f"{prefix}{part.name}.")  # type: ignore[arg-type]
    return found
