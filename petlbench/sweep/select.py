"""protocol=select: trials of each method, then final runs with the values chosen on val.

Both are ordinary runs under protocol=trial and protocol=final, so a run that was done before, by
hand or by another process, is not repeated. The choice follows from the records of all trials:
every process that does this sweep makes the same one. It is the point with the highest mean top-1
on val over tasks and seeds; of equal points it is the one that was declared first. A trial that
failed counts as tried, and its point is not chosen.
"""

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from petlbench.config.job_nodes import FINAL, TRIAL
from petlbench.config.schema import Config
from petlbench.config.selection import SUITE, SelectConfig
from petlbench.garbage import uncollected
from petlbench.run import contents
from petlbench.run.identity import identity
from petlbench.run.once import Signature, record_signature
from petlbench.run.record import Record, Store
from petlbench.sweep import conduct, plan
from petlbench.sweep.launchers.launcher import Launcher
from petlbench.sweep.space import Point, Space, shown
from petlbench.units import counted

DIGITS = 9  # of a mean: equal means stay equal whatever the order of their sum
Place = tuple[Path, str]  # results.root and identity of a run
Compose = Callable[[str, Point, Sequence[int] | None], Iterable[plan.Combination]]
log = logging.getLogger("petlbench")


@dataclass(frozen=True)
class Cell:
    """A method on a task, with all values but the searched ones.

    others: texts of what else is varied, for names. compose: the combinations of a protocol and
    a point, at some seeds; None: those of the command.
    """

    space: Space
    points: Sequence[Point]
    others: tuple[str, ...]
    compose: Compose


@dataclass(frozen=True)
class Choice:
    """The chosen point of a search. val: its mean in percent. tied: other points as good."""

    point: Point
    val: float
    tied: int


class Outcome(NamedTuple):
    """The exit code of a sweep of protocol=select: 0, or 1 after a failure; trials, final runs."""

    code: int
    runs: list[plan.Planned]


class Search:
    """The trials that one choice of values is made from: of a task, or of the tasks of a suite."""

    def __init__(
        self, cells: Sequence[Cell], trials: Sequence[Sequence[plan.Combination]]
    ) -> None:
        """trials: of each point, on all tasks and seeds."""
        self.cells, self.trials = cells, trials
        self.space, self.points = cells[0].space, cells[0].points
        configs = [config for config, _, _ in trials[0]]
        factors, tasks = configs[0].factors, {config.factors.task for config in configs}
        where = (
            factors.task if len(tasks) == 1 else f"{configs[0].dataset.suite} ({len(tasks)} tasks)"
        )
        self.name = " ".join((f"{factors.method} on {factors.backbone} {where}", *cells[0].others))

    def finals(self, point: Point) -> list[plan.Combination]:
        """The final runs with the values of a point."""
        return [one for cell in self.cells for one in cell.compose(FINAL, point, None)]

    def choice(self, scores: Sequence[Sequence[float | None]]) -> Choice | None:
        """The best point by the scores of its trials, None for those that failed.

        None without a point all of whose trials have finished.
        """
        means = {
            place: round(fmean(score for score in own if score is not None), DIGITS)
            for place, own in enumerate(scores)
            if None not in own
        }
        if not means:
            return None
        best = max(means, key=means.__getitem__)  # of equal ones the first
        ties = sum(value == means[best] for value in means.values())
        return Choice(self.points[best], means[best], ties - 1)

    def line(self, choice: Choice, failed: int) -> str:
        """chosen: lora on vit_b16 vtab/cifar: train.lr=0.001 (val 71.2 %, 8 trials)"""
        said = [f"val {choice.val:.1f} %", f"{len(self.points)} trials"]
        said += [f"{failed} of them failed"] if failed else []
        said += [f"{choice.tied} others as good, declared later"] if choice.tied else []
        edges = self.space.edges(choice.point)
        said += [f"at the edge of its values: {', '.join(edges)}"] if edges else []
        return f"chosen: {self.name}: {' '.join(shown(choice.point))} ({', '.join(said)})"


def sweep(
    cells: Iterable[Cell],
    selection: SelectConfig,
    launcher: Launcher,
    *,
    dry_run: bool,
    tflops: float | None,
) -> Outcome:
    """Do the trials, choose, do the final runs.

    tflops: as of `conduct.sweep`. Raises UserError for a mistake of the command, before any run.
    """
    searches, store = _searches(cells, selection), cache(Store)
    trials = conduct.planned(_all_trials(searches), store)
    finals = [one for search in searches for one in search.finals(search.points[0])]
    # what the final runs lack is said now, and not after hours of trials
    wanted = [plan.Planned(config, "", plan.TO_RUN) for config, _, _ in finals]
    conduct.check([*trials, *(wanted if _open(trials) else [])], launcher, dry_run=dry_run)
    headline = f"{plan.headline(trials, 'trial')}; then {counted(len(finals), 'final run')}"
    conduct.announce(headline, trials, store, dry_run=dry_run, tflops=tflops)
    if dry_run and _open(trials):
        log.info("  the final runs follow from the choice among the trials")
        return Outcome(0, trials)
    before = _signatures(trials)
    if not dry_run and _open(trials):
        conduct.prepare(wanted)
    failures = [] if dry_run else conduct.done(trials, store, launcher)
    # a launcher that does not wait leaves the record of an earlier try that failed
    earlier = {place for place, seen in _signatures(trials).items() if seen == before[place]}
    combinations, unchosen = _chosen(searches, trials, store, earlier)
    runs = conduct.planned(combinations, store) if combinations else []
    conduct.check(runs, launcher, dry_run=dry_run)
    headline = plan.headline(runs, "final run")
    conduct.announce(headline, runs, store, dry_run=dry_run, tflops=tflops)
    if dry_run:
        return Outcome(0, [*trials, *runs])
    failures += [*unchosen, *conduct.done(runs, store, launcher)]
    return Outcome(conduct.end([*trials, *runs], failures, store), [*trials, *runs])


@uncollected()
def _searches(cells: Iterable[Cell], selection: SelectConfig) -> list[Search]:
    """The cells that share a choice, with the trials of their points."""
    by_name: dict[tuple[str, ...], list[tuple[Cell, list[list[plan.Combination]]]]] = {}
    for cell in cells:
        trials = [list(cell.compose(TRIAL, point, selection.trial_seeds)) for point in cell.points]
        config = trials[0][0][0]
        by_name.setdefault(_name(config, cell, selection), []).append((cell, trials))
    return [
        Search(
            [cell for cell, _ in group],
            # of each point, those of all cells
            [
                list(itertools.chain(*own))
                for own in zip(*(trials for _, trials in group), strict=True)
            ],
        )
        for group in by_name.values()
    ]


def _name(config: Config, cell: Cell, selection: SelectConfig) -> tuple[str, ...]:
    factors = config.factors
    task = config.dataset.suite if selection.per == SUITE else factors.task
    return factors.method, factors.backbone, task, config.results.root, *cell.others


def _all_trials(searches: Iterable[Search]) -> Iterator[plan.Combination]:
    return (one for search in searches for trials in search.trials for one in trials)


def _chosen(
    searches: Iterable[Search],
    runs: Sequence[plan.Planned],
    store: conduct.Stores,
    earlier: Collection[Place],
) -> tuple[list[plan.Combination], list[str]]:
    """The final runs with the chosen values, and a line for each search without a choice.

    earlier: the trials that were started again and whose records are of an earlier try.
    """
    by_overrides, states = (
        {run.overrides: run.id for run in runs},
        {run.id: run.state for run in runs},
    )
    known = cache(lambda root: _ended(root, store(root), earlier))
    combinations, lines = [], []
    for search in searches:
        names = [[_identity(one, by_overrides) for one in trials] for trials in search.trials]
        root = search.trials[0][0][0].results.root
        records = [[known(root).get(name) for name in own] for own in names]
        if all(states[name] == plan.UNSUPPORTED for own in names for name in own):
            # records of the final runs say so too
            combinations += search.finals(search.points[0])
        elif (reason := _obstacle(records)) is not None:
            lines.append(f"no final runs: {search.name}: {reason}")
        else:
            scores = [[_score(record) for record in own] for own in records]
            choice = search.choice(scores)
            assert choice is not None
            log.info(search.line(choice, sum(None in own for own in scores)))
            combinations += search.finals(choice.point)
    return combinations, lines


def _identity(combination: plan.Combination, known: Mapping[tuple[str, ...], str]) -> str:
    config, _, overrides = combination
    # two combinations of one run: the plan has the overrides of the first
    return known.get(overrides) or identity(contents.identified(config))


def _signatures(trials: Iterable[plan.Planned]) -> dict[Place, Signature | None]:
    """Of the records of the trials to run."""
    return {
        (Path(run.config.results.root), run.id): record_signature(run.config, run.id)
        for run in trials
        if run.state == plan.TO_RUN
    }


def _ended(root: str, store: Store, earlier: Collection[Place]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in store.records():
        is_finished, name = record["status"] == "finished", record["id"]
        if record["protocol"] != TRIAL or not (is_finished or (Path(root), name) not in earlier):
            continue
        # options of equal values give one identity several files
        if is_finished or name not in found:
            found[name] = record
    return found


def _obstacle(records: Sequence[Sequence[Record | None]]) -> str | None:
    """Why no point can be chosen, None if one can."""
    every = [record for own in records for record in own]
    if missing := every.count(None):
        return f"{missing} of {len(every)} trials have not ended; the same command goes on"
    if all(None in map(_score, own) for own in records):
        return f"none of {len(records)} trials finished; their records have the reasons"
    return None


def _score(record: Record | None) -> float | None:
    """Top-1 on val in percent, None for a trial that failed."""
    if record is None or record["status"] != "finished":
        return None
    return float(record["scores"]["val"]["top1"])


def _open(runs: Iterable[plan.Planned]) -> bool:
    return any(run.state == plan.TO_RUN for run in runs)
