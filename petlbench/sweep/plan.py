"""The plan of a sweep: which runs there are, which are finished, which cannot be.  No Hydra."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petlbench.errors import Unsupported, UserError
from petlbench.run.record import Record, identity

Config = dict[str, Any]
Combination = tuple[Config, tuple[str, ...]]  # and what the sweep varies in it, as overrides
TO_RUN, FINISHED, UNSUPPORTED = "to run", "finished", "unsupported"
CHECKED = ("method", "backbone", "input", "train", "protocol", "recipe", "job", "probe")


@dataclass(frozen=True)
class Planned:
    """One run of a sweep; `reason` says why an unsupported one cannot be."""

    config: Config
    id: str
    state: str
    varied: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def name(self) -> str:
        """For example `lora mini/digits seed 0 method.rank=4`."""
        factors = self.config["factors"]
        cell = f"{factors['method']} {factors['task']} seed {factors['seed']}"
        return " ".join((cell, *self.varied))


def build(
    combinations: Iterable[Combination], finished: set[str], check: Callable[[Config], None]
) -> list[Planned]:
    """The runs of a sweep, each once, in the order of the combinations.

    check is called once for each method on each backbone with their values. Unsupported from it
    marks the pair's runs; any other UserError is a mistake of the command and ends planning.
    """
    runs: dict[str, Planned] = {}
    reasons: dict[str, str | None] = {}
    for config, varied in combinations:
        pair = json.dumps([config.get(key) for key in CHECKED], sort_keys=True)
        if pair not in reasons:
            reasons[pair] = _reason(config, check)
        name = identity(config)
        state = UNSUPPORTED if reasons[pair] else FINISHED if name in finished else TO_RUN
        runs.setdefault(name, Planned(config, name, state, varied, reasons[pair]))
    if not runs:
        raise UserError("this sweep has no runs; name some, e.g. method=paper dataset=mini")
    return list(runs.values())


def _reason(config: Config, check: Callable[[Config], None]) -> str | None:
    factors = config["factors"]
    try:
        check(config)
    except Unsupported as error:
        return str(error)
    except UserError as error:
        raise UserError(f"{factors['method']} on {factors['backbone']}: {error}") from error
    return None


def headline(runs: Sequence[Planned]) -> str:
    """plan: 114 runs, 12 finished (skipped), 102 to run"""
    states = Counter(run.state for run in runs)
    line = f"plan: {len(runs)} runs, {states[FINISHED]} finished (skipped)"
    line += f", {states[TO_RUN]} to run"
    return line + (f", {states[UNSUPPORTED]} unsupported" if states[UNSUPPORTED] else "")


def listing(runs: Sequence[Planned]) -> list[str]:
    """One line a run, for a dry run."""
    return [f"  {run.state:<12}{run.name}" for run in runs]


def refusals(runs: Sequence[Planned]) -> list[str]:
    """One line for each unsupported pair of method and backbone."""
    found: dict[str, str | None] = {}
    for run in runs:
        if run.state == UNSUPPORTED:
            factors = run.config["factors"]
            found[f"{factors['method']} on {factors['backbone']}"] = run.reason
    return [f"unsupported: {pair}: {why}" for pair, why in found.items()]


def result_line(record: Record) -> str:
    """What one run is told as: its scores, else its costs; or what went wrong."""
    if record["status"] != "finished":
        return f"{record['status']}: {record['reason']}"
    scores = [f"{name} {score['top1']:.1f} %" for name, score in record["scores"].items()]
    told = scores or list(_costs(record["cost"]))
    return f"{', '.join(told)} ({record['provenance']['seconds']:.0f} s)"


def _costs(cost: Mapping[str, Any]) -> Iterator[str]:
    yield f"{cost['parameters']['method'] / 1e6:.3f} M trained"
    yield f"{cost['saved_mb']:.0f} MB kept for backward"
    yield f"{cost['gflops']['step']:.1f} GFLOP a training image"
    for key, told in (("peak_mib", "peak"), ("predicted_mib", "predicted peak")):
        if cost.get(key):
            yield f"{told} {cost[key]['allocated']:.0f} MiB"
    if cost.get("train_images_per_s"):
        yield f"{cost['train_images_per_s']:.0f} training images/s"
