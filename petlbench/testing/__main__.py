"""python -m petlbench.testing METHOD [METHOD ...]: the properties of a method, one line each."""

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from petlbench import registry
from petlbench.errors import UserError, unknown
from petlbench.interrupts import one_line
from petlbench.testing import (
    FAMILIES,
    METHOD_PROPERTIES,
    NETWORK_PROPERTIES,
    Case,
    Skipped,
    support_is_as_declared,
    supported,
)

Property = Callable[[Case], None]


def outcome(check: Property, case: Case) -> tuple[str, str]:
    """`ok`, `FAILED` or `skipped`, and the reason in one line."""
    try:
        check(case)
    except Skipped as reason:
        return "skipped", str(reason)
    except Exception as error:  # also a mistake inside the method
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return "FAILED", kind + (str(error).strip().splitlines() or ["no message"])[0]
    return "ok", ""


def checks(method: str, families: Sequence[str]) -> Iterator[tuple[Property, Case]]:
    """All properties of a method; those of a network only if the method supports it."""
    # Properties of a method need a network that it supports.
    home = next((family for family in FAMILIES if supported(method, family)), FAMILIES[0])
    yield from ((check, Case(method, home)) for check in METHOD_PROPERTIES)
    for family in families:
        case = Case(method, family)
        yield support_is_as_declared, case
        # Else all properties would fail for one reason, which this one reports.
        if outcome(support_is_as_declared, case)[0] == "ok" and supported(method, family):
            yield from ((check, case) for check in NETWORK_PROPERTIES)


def line(result: str, check: Property, case: Case, reason: str) -> str:
    """A row of the output."""
    network = "-" if check in METHOD_PROPERTIES else case.family
    name = check.__name__.replace("_", " ")
    return f"{result:<8}{case.method}  {network:<9} {name}{reason and f': {reason}'}"


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Test methods; 0 if no property fails, 1 if one does, 2 for a wrong argument."""
    parser = argparse.ArgumentParser(
        "petlbench.testing", description="test the properties of methods"
    )
    parser.add_argument("method", nargs="+", help="registered methods, e.g. lora")
    parser.add_argument(
        "--backbone",
        default=",".join(FAMILIES),
        metavar="FAMILY[,FAMILY]",
        help=f"tiny networks to test on: {', '.join(FAMILIES)} (default: all)",
    )
    chosen = parser.parse_args(arguments)
    try:
        families = _known("tiny network", chosen.backbone.split(","), FAMILIES)
        methods = _known("method", chosen.method, registry.names())
        return _report(methods, families)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _known(kind: str, names: Sequence[str], choices: Sequence[str]) -> list[str]:
    for name in names:
        if name not in choices:
            raise unknown(kind, name, choices)
    return list(dict.fromkeys(names))


def _report(methods: Sequence[str], families: Sequence[str]) -> int:
    counts: Counter[str] = Counter()
    warnings.simplefilter("ignore")  # torch's advice on padding and the like
    for method in methods:
        for check, case in checks(method, families):
            result, reason = outcome(check, case)
            counts[result] += 1
            print(line(result, check, case, reason), flush=True)
    print(f"{counts['ok']} ok, {counts['FAILED']} FAILED, {counts['skipped']} skipped")
    return int(counts["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
