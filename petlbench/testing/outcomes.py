"""The outcome of each property of a method, one line each."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from petlbench.testing.case import Case
from petlbench.testing.facts import Skipped, supported
from petlbench.testing.networks import FAMILIES
from petlbench.testing.once import METHOD_PROPERTIES, support_is_as_declared
from petlbench.testing.passes import PASS_PROPERTIES
from petlbench.testing.properties import STATE_PROPERTIES

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
            yield from ((check, case) for check in (*STATE_PROPERTIES, *PASS_PROPERTIES))


def line(result: str, check: Property, case: Case, reason: str) -> str:
    """A row of the output."""
    network = "-" if check in METHOD_PROPERTIES else case.family
    name = check.__name__.replace("_", " ")
    return f"{result:<8}{case.method}  {network:<9} {name}{reason and f': {reason}'}"


def report(methods: Sequence[str], families: Sequence[str]) -> int:
    """Print the outcomes and their counts; 1 if a property fails."""
    counts: Counter[str] = Counter()
    warnings.simplefilter("ignore")  # torch's advice on padding and the like
    for method in methods:
        for check, case in checks(method, families):
            result, reason = outcome(check, case)
            counts[result] += 1
            print(line(result, check, case, reason), flush=True)
    print(f"{counts['ok']} ok, {counts['FAILED']} FAILED, {counts['skipped']} skipped")
    return int(counts["FAILED"] > 0)
