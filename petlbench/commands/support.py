"""Which method works on which backbone: python -m petlbench.support [BACKBONE ...].

Builds each pair on the meta device, as a plan does, and prints the table in Markdown; a second or
two for each pair. docs/support.md is made by `make docs`.
"""

import sys
from collections.abc import Iterable, Sequence
from itertools import count

from petlbench import registry
from petlbench.config import compose, options
from petlbench.errors import Unsupported
from petlbench.run import build

YES = "yes"


def reason(method: str, backbone: str) -> str | None:
    """Why the pair cannot be, or None."""
    config = compose.single([f"method={method}", f"backbone={backbone}"])
    try:
        build.check(config)
    except Unsupported as error:
        return str(error).replace(config.backbone.name, "this network")
    return None


def table(methods: Iterable[str], on: Iterable[str]) -> str:
    """Markdown: a row a method, a column a backbone, refusals as numbered notes."""
    names, notes, numbers = list(on), dict[str, int](), count(1)
    lines = [_line(["method", *names]), _line(["---"] * (len(names) + 1))]
    for method in methods:
        cells = []
        for name in names:
            why = reason(method, name)
            if why is not None and why not in notes:
                notes[why] = next(numbers)
            cells.append(YES if why is None else f"no ({notes[why]})")
        lines.append(_line([method, *cells]))
    return "\n".join([*lines, "", *(f"{number}. {why}" for why, number in notes.items()), ""])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    chosen = sys.argv[1:] if arguments is None else list(arguments)
    print(table(registry.names(), chosen or options.names("backbone")), end="")
    return 0
