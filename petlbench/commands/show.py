"""Explain a key of the configuration: `petlbench show train.memory`. Imports no torch."""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple, get_type_hints

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from petlbench.arguments import Parser, command
from petlbench.commands import source
from petlbench.config import (
    command_line,
    compositions,
    construct,
    mistakes,
    options,
    search_path,
)
from petlbench.config.composer import ROOT
from petlbench.config.schema import Settings
from petlbench.errors import UserError

WRONG = (-1, "?", None)  # values that a check refuses, with the range in its message
RANGE = r"(?:unknown )?{} (?:is )?[^;]*; (?:it must be|(?:did you mean .*\? )?Known:) (.*)"
NODES = ("method", "backbone", "dataset", "protocol")  # groups with a node of their name
WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
EXAMPLES = """examples:
  petlbench show train.memory
  petlbench show method.rank method=lora
  petlbench show train
"""


class Place(NamedTuple):
    """A line of a yaml file that sets a key: its comment and the value as it is written."""

    file: str
    line: int
    comment: str
    written: str


def explained(key: str, overrides: Sequence[str]) -> list[str]:
    """What a key is, its value with these options, what it takes, and where it is set.

    Raises UserError for an unknown key.
    """
    loader, composed = compositions.multirun(overrides)
    found = places(loader, overrides)
    try:
        value = _value(composed, key)
    except (KeyError, OmegaConfBaseException):  # the latter for an empty part, as in `..`
        line = _of_option(key) or mistakes.no_key(key, compositions.keys(composed))
        raise UserError(line) from None
    if isinstance(value, dict):
        return [f"{key}: a node", *_children(key, value, found)]
    comments = [place.comment for place in found.get(key, []) if place.comment]
    written = [place for place in found.get(key, []) if "${" in place.written]
    parts = {
        "": comments[-1] if comments else "",
        "takes": accepted(composed, key),
        "refers to": written[-1].written if written else "",
        "set in": ", then ".join(f"{place.file}:{place.line}" for place in found.get(key, [])),
    }
    given = [text for text in overrides if text.partition("=")[0] == key]
    lines = [f"  {name}{name and ': '}{text}" for name, text in parts.items() if text]
    return [f"{key} = {_yaml(value)}", *lines, *(f"  set by this command: {t}" for t in given)]


def _of_option(text: str) -> str | None:
    """What to show for the name of an option, as `lora` or `method=lora`; None if it is none."""
    for group in NODES:
        name = text.removeprefix(f"{group}=")
        if name in options.names(group):
            return (
                f"'{text}' is an option and no key; petlbench show {group} {group}={name} lists "
                "its keys"
            )
    return None


def _value(composed: DictConfig, key: str) -> Any:
    """A value, interpolations resolved; ??? if it is not set. Raises KeyError without the key."""
    *above, last = key.split(".")
    node: Any = composed
    for part in above:
        node = node._get_node(part) if isinstance(node, DictConfig) else None
    names = list(node) if isinstance(node, DictConfig) else []  # `in` denies missing values
    if last not in names:
        raise KeyError(key)
    if OmegaConf.is_missing(node, last):
        return "???"
    try:
        value = node[last]
    except OmegaConfBaseException:  # it refers to a value that is not set
        return OmegaConf.to_container(node)[last]  # type: ignore[index,call-overload]
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _children(key: str, node: Mapping[str, Any], found: Mapping[str, list[Place]]) -> list[str]:
    """A line for each key of a node, with its comment."""
    lines = []
    for name, value in node.items():
        comments = [place.comment for place in found.get(f"{key}.{name}", []) if place.comment]
        shown = "{...}" if isinstance(value, dict) and value else _yaml(value)
        lines.append("  # ".join([f"  {name}: {shown}", *comments[-1:]]))
    return lines


def _yaml(value: Any) -> str:
    """A value as yaml writes it in one line."""
    text = str(yaml.safe_dump(value, default_flow_style=True, width=10_000))
    return text.removesuffix("\n").removesuffix("\n...")


def accepted(composed: DictConfig, key: str) -> str:
    """The values that a key takes, in words; empty if nothing says so."""
    node, *rest = key.split(".")
    hint = get_type_hints(Settings).get(node)
    if node in ("method", "dataset"):
        path = composed[node].get("_target_", "")
        kind = source.annotations(path).get(rest[0]) if rest and path else None
        words = [WORDS.get(part.strip(), part.strip()) for part in (kind or "").split("|")]
        return " or ".join(words).replace("None", "null")
    kinds = (hint, *getattr(hint, "__args__", ()))
    nested = next((kind for kind in kinds if hasattr(kind, "__dataclass_fields__")), None)
    if nested is None or not rest:
        return WORDS.get(getattr(hint, "__name__", ""), "")
    return next(filter(None, (_range(nested, composed[node], key, wrong) for wrong in WRONG)), "")


def _range(schema: type, node: DictConfig, key: str, wrong: object) -> str | None:
    """What the message says if a value is wrong; None if it is taken, or no range is named."""
    where, *above, last = key.split(".")
    try:
        plain: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException:  # it refers to a value that is not set
        return None
    part = plain
    for name in above:
        part = part[name]
    part[last] = wrong
    try:
        construct.build(schema, plain, where)
    except UserError as error:
        # of this key, and not of another one that it is compared with
        match = re.match(RANGE.format(re.escape(key)), str(error))
        return match[1] if match else None
    except (TypeError, ValueError):  # a check that composition spares this type
        return None
    return None


def places(loader: ConfigLoaderImpl, overrides: Sequence[str]) -> dict[str, list[Place]]:
    """Where each dotted key is set, in the order in which the files are merged."""
    found: dict[str, list[Place]] = {}
    listed = loader.compute_defaults_list(ROOT, list(overrides), RunMode.MULTIRUN)
    for result in listed.defaults:
        text = _text(str(result.config_path))
        if text is not None:
            for key, place in _lines(text, f"conf/{result.config_path}.yaml"):
                package = f"{result.package}." if result.package else ""
                found.setdefault(f"{package}{key}", []).append(place)
    return found


def _text(path: str) -> str | None:
    """The text of a file of the configuration; None if it is made by a program, or Hydra's."""
    for package in search_path.packages():
        file = resources.files(package).joinpath(*f"{path}.yaml".split("/"))
        if file.is_file():
            return file.read_text()
    return None


def _lines(text: str, file: str) -> Iterator[tuple[str, Place]]:
    """The dotted keys of a yaml, each with its place."""
    rows = text.splitlines()
    stack: list[tuple[str, Any]] = [("", yaml.compose(text, yaml.SafeLoader))]
    while stack:
        above, node = stack.pop()
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            name = f"{above}{key.value}"
            row = rows[key.start_mark.line]
            # several keys in a line share its comment, which then says nothing of one of them
            comment = row.partition(" # ")[2] if row.strip().startswith(str(key.value)) else ""
            written = value.value if isinstance(value, yaml.ScalarNode) else ""
            yield name, Place(file, key.start_mark.line + 1, comment.strip(), written)
            stack.append((f"{name}.", value))


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the explanation; 2 for a mistake."""
    parser = Parser(
        "petlbench show",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("key", help="a dotted key, such as train.memory")
    parser.add_argument(
        "override", nargs="*", default=[], help="options and values, such as method=lora"
    )
    chosen = parser.parse_args(arguments)
    command_line.check_groups(chosen.override)
    with mistakes.as_user_errors(lambda: compositions.keys_with([])):
        print("\n".join(explained(chosen.key, chosen.override)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
