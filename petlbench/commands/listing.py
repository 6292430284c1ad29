"""`petlbench methods|tasks|backbones`: the options, one line each. Imports no torch."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from petlbench.arguments import Parser, command
from petlbench.commands import source
from petlbench.config import options

COUNTED_ON = "vit_b16"  # the backbone of the parameters
Row = dict[str, Any]


def methods() -> list[Row]:
    """Name, title, trained parameters without the head, and what the method does."""
    found = options.contents("method")
    classes = Counter(_class(content) for content in found.values())
    return [
        {
            "name": name,
            "title": content.get("title", name),
            "parameters": ((content.get("facts") or {}).get("parameters") or {}).get(COUNTED_ON),
            # one class has many tuners of PEFT, and their yamls say what each does
            "about": (classes[_class(content)] > 1 and update(options.text("method", name)))
            or source.first_sentence(_class(content))
            or comment("method", name),
        }
        for name, content in found.items()
        if isinstance(content.get("method"), dict)
    ]


def tasks() -> list[Row]:
    """Name, title, classes, the tasks of a suite, and the comment of the yaml."""
    return [
        {
            "name": name,
            "title": content.get("title", name),
            "classes": classes if isinstance(classes := content.get("classes"), int) else None,
            "tasks": members,
            "about": comment("dataset", name) or "; ".join(members or ()),
        }
        for name, content in options.contents("dataset").items()
        for members in [options.members("dataset", content)]
    ]


def backbones() -> list[Row]:
    """Name, timm's name, and the comment of the yaml."""
    return [
        {
            "name": name,
            "network": (content.get("backbone") or content).get("name"),
            "about": comment("backbone", name),
        }
        for name, content in options.contents("backbone").items()
    ]


def _class(content: dict[str, Any]) -> str:
    node = content.get("method")
    return str(node.get("_target_")) if isinstance(node, dict) else ""


def comment(group: str, name: str) -> str:
    """The first comment of an option's yaml, without Hydra's line; empty without one."""
    return next(_head(options.text(group, name)), "")


def update(text: str) -> str:
    """What the head of a method's yaml says between the parameters and the link, in one line."""
    _, *lines = [*_head(text), ""]
    return " ".join(lines).partition("https://")[0].rstrip(" ;,.")


def _head(text: str) -> Iterator[str]:
    """The comments above the keys of a yaml, without Hydra's line."""
    for line in takewhile(lambda line: line.startswith("#"), text.splitlines()):
        if not line.startswith("# @package"):
            yield line.lstrip("# ")


KINDS: dict[str, Callable[[], list[Row]]] = {
    "methods": methods,
    "tasks": tasks,
    "backbones": backbones,
}


def lines(rows: Sequence[Row]) -> list[str]:
    """A line for each option, in columns; parameters in millions."""
    cells = [[_cell(k, v) for k, v in row.items() if k != "tasks"] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _cell(key: str, value: Any) -> str:
    if value is None or "${" in str(value):  # composed from other values
        return ""
    if key == "parameters":
        return f"{value / 1e6:.3f} M"
    return f"{value} classes" if key == "classes" else str(value)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the options of a kind."""
    parser = Parser("petlbench")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind in KINDS:
        listed = kinds.add_parser(kind, description=f"List the {kind}, one line each.")
        listed.add_argument("--json", action="store_true", help="print a JSON list")
    chosen = parser.parse_args(arguments)
    rows = KINDS[chosen.kind]()
    if chosen.json:
        print(json.dumps(rows, indent=1))
        return 0
    if chosen.kind == "methods":
        print(f"name, title, parameters on {COUNTED_ON} without the head, what it does")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines(rows):
        print(line[:width])
    return 0


if __name__ == "__main__":
    sys.exit(main())
