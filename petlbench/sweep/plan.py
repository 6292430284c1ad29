"""The plan of a sweep: which runs there are, which are finished, which cannot be. No Hydra here."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from petlbench.errors import Unsupported, UserError
from petlbench.record import Record, identity

Config = dict[str, Any]
TO_RUN, FINISHED, UNSUPPORTED = "to run", "finished", "unsupported"


@dataclass(frozen=True)
class Planned:
    """One run of a sweep; `reason` says why an unsupported one cannot be."""

    config: Config
    id: str
    state: str
    reason: str | None = None

    @property
    def name(self) -> str:
        """For example `lora mini/digits seed 0`."""
        factors = self.config["factors"]
        backbone = "" if factors["backbone"] == "vit_mini" else f" {factors['backbone']}"
        return f"{factors['method']}{backbone} {factors['task']} seed {factors['seed']}"


def expand(names: Iterable[str], suite_of: Callable[[str], Sequence[str] | None]) -> list[str]:
    """Names with every suite replaced by what it lists, each name once, in order.

    suite_of: what a name lists, or None if it is no suite. Suites may list suites.
    """
    return list(dict.fromkeys(_walk(names, suite_of, ())))


def _walk(
    names: Iterable[str], suite_of: Callable[[str], Sequence[str] | None], above: tuple[str, ...]
) -> Iterator[str]:
    for name in names:
        listed = suite_of(name)
        if name in above:
            raise UserError(f"suite '{name}' contains itself: {' > '.join((*above, name))}")
        if listed is None:
            yield name
        else:
            yield from _walk(listed, suite_of, (*above, name))


def build(
    configs: Iterable[Config], finished: set[str], check: Callable[[Config], None]
) -> list[Planned]:
    """The runs of a sweep, each once, in the order of the configurations.

    check is called once for each method on each backbone. Unsupported from it marks the pair's
    runs; any other UserError is a mistake of the command and ends planning.
    """
    runs: dict[str, Planned] = {}
    reasons: dict[str, str | None] = {}
    for config in configs:
        pair = json.dumps([config[key] for key in ("method", "backbone", "input")], sort_keys=True)
        if pair not in reasons:
            reasons[pair] = _reason(config, check)
        name = identity(config)
        state = UNSUPPORTED if reasons[pair] else FINISHED if name in finished else TO_RUN
        runs.setdefault(name, Planned(config, name, state, reasons[pair]))
    if not runs:
        raise UserError("this sweep has no runs; name methods and tasks, e.g. method=paper dataset=mini")
    return list(runs.values())


def _reason(config: Config, check: Callable[[Config], None]) -> str | None:
    try:
        check(config)
    except Unsupported as error:
        return str(error)
    return None


def headline(runs: Sequence[Planned]) -> str:
    """plan: 114 runs, 12 finished (skipped), 102 to run"""
    counts = Counter(run.state for run in runs)
    line = f"plan: {len(runs)} runs, {counts[FINISHED]} finished (skipped), {counts[TO_RUN]} to run"
    return line + (f", {counts[UNSUPPORTED]} unsupported" if counts[UNSUPPORTED] else "")


def listing(runs: Sequence[Planned]) -> list[str]:
    """One line a run, for a dry run."""
    return [f"  {run.state:<12}{run.name}" for run in runs]


def refusals(runs: Sequence[Planned]) -> list[str]:
    """One line for each unsupported pair of method and backbone."""
    found = {
        (run.config["factors"]["method"], run.config["factors"]["backbone"]): run.reason
        for run in runs
        if run.state == UNSUPPORTED
    }
    return [f"unsupported: {method} on {backbone}: {why}" for (method, backbone), why in found.items()]


def result_line(record: Record) -> str:
    """What one finished run is told as: its scores, or what went wrong."""
    if record["status"] != "finished":
        return f"{record['status']}: {record['reason']}"
    scores = (f"{name} {score['top1']:.1f} %" for name, score in record["scores"].items())
    return f"{', '.join(scores)} ({record['provenance']['seconds']:.0f} s)"
