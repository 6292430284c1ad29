"""Print which method works on which backbone, as a table in Markdown.

Builds each pair on the meta device, as the plan of a sweep does; a second or two per
pair. `make docs` writes docs/support.md.
"""

from collections.abc import Iterable, Sequence
from itertools import count, product

from petlbench.arguments import Parser, command
from petlbench.config import compose, options
from petlbench.errors import UserError, unknown
from petlbench.progress import progress

YES = "yes"


def reason(method: str, backbone: str) -> str | None:
    """Why the method does not work on the backbone, or None if it does."""
    from petlbench.run import build  # imports torch

    config = compose.single([f"method={method}", f"backbone={backbone}"])
    try:
        build.check(config)
    except UserError as error:  # Unsupported, or values that this network cannot take
        # one note for all networks that are refused for the same reason
        return str(error).replace(config.backbone.name, "this network")
    return None


def table(methods: Iterable[str], backbones: Iterable[str]) -> str:
    """Markdown: one row per method, one column per backbone, refusals as numbered notes."""
    rows, columns = list(methods), list(backbones)
    pairs = list(product(rows, columns))
    notes, numbers = dict[str, int](), count(1)
    cells: dict[str, list[str]] = {row: [] for row in rows}
    for method, name in progress(pairs, "pairs of method and backbone", len(pairs)):
        refusal = reason(method, name)
        if refusal is not None and refusal not in notes:
            notes[refusal] = next(numbers)
        cells[method].append(YES if refusal is None else f"no ({notes[refusal]})")
    head = [_line(["method", *columns]), _line(["---"] * (len(columns) + 1))]
    lines = [*head, *(_line([method, *cells[method]]) for method in rows)]
    return "\n".join([*lines, "", *(f"{number}. {text}" for text, number in notes.items()), ""])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 2 for an unknown backbone, else 0."""
    backbones = options.names("backbone")
    parser = Parser("petlbench support", description=__doc__)
    parser.add_argument(
        "backbone", nargs="*", help=f"columns of the table (default: all): {', '.join(backbones)}"
    )
    chosen = parser.parse_args(arguments).backbone or backbones
    for name in chosen:
        if name not in backbones:
            raise unknown("backbone", name, backbones)
    from petlbench import registry  # imports torch, so after cheap mistakes

    print(table(registry.names(), dict.fromkeys(chosen)), end="")  # each column once
    return 0
