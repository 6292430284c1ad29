"""Test the properties of registered methods, as pytest does: one line each."""

import sys
from collections.abc import Sequence

from petlbench.arguments import Parser, command
from petlbench.errors import unknown

EXAMPLE = "example: petlbench testing lora --backbone vit,swin"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Test methods; 0 if no property fails, 1 if one does, 2 for a wrong argument."""
    parser = Parser("petlbench testing", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("method", nargs="+", help="registered methods, e.g. lora")
    parser.add_argument(
        "--backbone", metavar="FAMILY[,FAMILY]", help="tiny networks to test on (default: all)"
    )
    chosen = parser.parse_args(arguments)
    # after the help: torch takes seconds
    from petlbench import registry
    from petlbench.testing import FAMILIES
    from petlbench.testing.outcomes import report

    given = FAMILIES if chosen.backbone is None else chosen.backbone.split(",")
    families = _known("tiny network", given, FAMILIES)
    return report(_known("method", chosen.method, registry.names()), families)


def _known(kind: str, names: Sequence[str], choices: Sequence[str]) -> list[str]:
    for name in names:
        if name not in choices:
            raise unknown(kind, name, choices)
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    sys.exit(main())
