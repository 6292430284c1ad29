"""A sweep from plan to summary. Imports torch only for runs that are not finished."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from petlbench.config.schema import Config
from petlbench.garbage import uncollected
from petlbench.run import job
from petlbench.run.claims import Claims
from petlbench.run.record import Store
from petlbench.sweep import plan
from petlbench.sweep.launchers.launcher import Launcher

log = logging.getLogger("petlbench")
Stores = Callable[[str], Store]  # the records below a results.root


def sweep(
    combinations: Sequence[plan.Combination],
    launcher: Launcher,
    *,
    dry_run: bool,
    tflops: float | None,
) -> int:
    """Plan, run what is not finished, and report all failures. Returns the exit code: 0 or 1.

    tflops: speed of the machine in TFLOP/s, for the plan's hours where no record tells. Raises
    UserError for a mistake of the command, before any run.
    """
    store = cache(Store)  # one for each results.root, which may be swept too
    runs = planned(combinations, store)
    check(runs, launcher, dry_run=dry_run)
    announce(plan.headline(runs), runs, store, dry_run=dry_run, tflops=tflops)
    return 0 if dry_run else end(runs, done(runs, store, launcher), store)


@uncollected()
def planned(combinations: Iterable[plan.Combination], store: Stores) -> list[plan.Planned]:
    """The runs of a sweep, and what the records say of them now."""
    return plan.build(combinations, cache(lambda root: store(root).finished()), _check)


@uncollected()
def check(runs: Sequence[plan.Planned], launcher: Launcher, *, dry_run: bool) -> None:
    """Refuse what cannot work before the plan is printed. Raises UserError."""
    if open_runs := _open(runs):
        from petlbench.sweep import perform  # imports torch

        perform.check(open_runs, dry_run=dry_run, is_here=launcher.is_here)
        to_run = [run for run in open_runs if run.state == plan.TO_RUN]
        if to_run and not dry_run:
            launcher.check(to_run)


@uncollected()
def announce(
    headline: str,
    runs: Sequence[plan.Planned],
    store: Stores,
    *,
    dry_run: bool,
    tflops: float | None,
) -> None:
    """Print the plan: what others do and what is refused; all runs of a dry run."""
    log.info(headline)
    for line in [*_outlook(_open(runs), store, tflops), *_elsewhere(_open(runs))]:
        log.info(line)
    for line in plan.doubles(runs):
        log.warning(line)
    for line in [*plan.refusals(runs), *(plan.listing(runs) if dry_run else ())]:
        log.info(line)


def prepare(runs: Sequence[plan.Planned]) -> None:
    """Decode the images of runs that start after others. Raises UserError for broken ones."""
    from petlbench.sweep import perform  # imports torch

    perform.prepare(runs)


def done(runs: Sequence[plan.Planned], store: Stores, launcher: Launcher) -> list[str]:
    """Do what is not finished. Returns a line for each failure."""
    if not _open(runs):
        return []
    from petlbench.sweep import perform  # imports torch

    return perform.perform(runs, store, launcher)


def end(runs: Sequence[plan.Planned], failures: Sequence[str], store: Stores) -> int:
    """Say where the records are, what failed, and what probes found. Returns the exit code."""
    roots = dict.fromkeys(str(store(run.config.results.root).root) for run in runs)
    log.info("records: %s", ", ".join(roots))
    for line in failures:
        log.error(line)
    for line in _summaries(runs, store):
        log.info(line)
    return 1 if failures else 0


def _open(runs: Sequence[plan.Planned]) -> list[plan.Planned]:
    return [run for run in runs if run.state != plan.FINISHED]


def _check(config: Config) -> None:
    """Refuse a run that cannot work."""
    job.of(config).check(config)


def _outlook(open_runs: Sequence[plan.Planned], store: Stores, tflops: float | None) -> list[str]:
    """What the runs ask of this machine."""
    if not open_runs:
        return []
    from petlbench.sweep import outlook  # imports torch

    return outlook.lines(open_runs, store, tflops)


def _elsewhere(runs: Sequence[plan.Planned]) -> list[str]:
    """A line for each process that does runs of the plan just now."""
    counts: Counter[str] = Counter()
    owners = {root: Claims(root).owners() for root in {run.config.results.root for run in runs}}
    for run in runs:
        if (owner := owners[run.config.results.root].get(run.id)) is not None:
            counts[f"process {owner.pid} on {owner.host}"] += 1
    return [f"in work: {count} by {who}" for who, count in sorted(counts.items())]


def _summaries(runs: Sequence[plan.Planned], store: Stores) -> Iterable[str]:
    # only probes have one; to look at the job of a training run would import torch
    probes = [run for run in runs if run.config.probe is not None]
    for (name, root), config in {_place(run): run.config for run in probes}.items():
        identities = [run.id for run in probes if _place(run) == (name, root)]
        yield from job.of(config).summary(config, store(root), identities)


def _place(run: plan.Planned) -> tuple[str, str]:
    return run.config.job, run.config.results.root
