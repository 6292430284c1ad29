"""Which method works on which backbone: python -m petlbench.support [BACKBONE ...].

Builds each pair on the meta device, as the plan of a sweep does, and prints a table in Markdown; a
second or two per pair. `make docs` writes docs/support.md.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import count

from petlbench import registry
from petlbench.config import compose, options
from petlbench.errors import Unsupported, UserError, unknown
from petlbench.interrupts import one_line
from petlbench.run import build

YES = "yes"


def reason(method: str, backbone: str) -> str | None:
    """Why the method does not work on the backbone, or None if it does."""
    config = compose.single([f"method={method}", f"backbone={backbone}"])
    try:
        build.check(config)
    except Unsupported as error:
        # one note for all networks that are refused for the same reason
        return str(error).replace(config.backbone.name, "this network")
    return None


def table(methods: Iterable[str], backbones: Iterable[str]) -> str:
    """Markdown: one row per method, one column per backbone, refusals as numbered notes."""
    names, notes, numbers = list(backbones), dict[str, int](), count(1)
    lines = [_line(["method", *names]), _line(["---"] * (len(names) + 1))]
    for method in methods:
        cells = []
        for name in names:
            refusal = reason(method, name)
            if refusal is not None and refusal not in notes:
                notes[refusal] = next(numbers)
            cells.append(YES if refusal is None else f"no ({notes[refusal]})")
        lines.append(_line([method, *cells]))
    return "\n".join([*lines, "", *(f"{number}. {text}" for text, number in notes.items()), ""])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 2 for an unknown backbone, else 0."""
    backbones = options.names("backbone")
    parser = argparse.ArgumentParser(
        "petlbench.support",
        description="Not every method works on every backbone: print a table in Markdown.",
    )
    parser.add_argument(
        "backbone", nargs="*", help=f"columns of the table (default: all): {', '.join(backbones)}"
    )
    chosen = parser.parse_args(arguments).backbone or backbones
    try:
        for name in chosen:
            if name not in backbones:
                raise unknown("backbone", name, backbones)
        print(table(registry.names(), dict.fromkeys(chosen)), end="")  # each column once
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
