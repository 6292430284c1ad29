"""A sweep from plan to summary. Imports torch only for runs that are not finished."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from petlbench.config.schema import Config
from petlbench.run import job
from petlbench.run.claims import Claims
from petlbench.run.record import Store
from petlbench.sweep import plan
from petlbench.sweep.launchers.launcher import Launcher

log = logging.getLogger("petlbench")


def sweep(combinations: Sequence[plan.Combination], launcher: Launcher, *, dry_run: bool) -> int:
    """Plan, run what is not finished, and report all failures. Returns the exit code: 0 or 1.

    Raises UserError for a mistake of the command, before any run.
    """
    store = cache(Store)  # one for each results.root, which may be swept too
    runs = plan.build(combinations, cache(lambda root: store(root).finished()), _check)
    open_runs = [run for run in runs if run.state != plan.FINISHED]
    if open_runs:
        from petlbench.sweep import perform  # imports torch

        perform.check(open_runs, dry_run=dry_run)
        if not dry_run:
            launcher.check(open_runs)
    log.info(plan.headline(runs))
    for line in _elsewhere(open_runs):
        log.info(line)
    for line in [*plan.refusals(runs), *(plan.listing(runs) if dry_run else ())]:
        log.info(line)
    if dry_run:
        return 0
    failures = perform.perform(runs, store, launcher) if open_runs else []
    roots = dict.fromkeys(str(store(run.config.results.root).root) for run in runs)
    log.info("records: %s", ", ".join(roots))
    for line in failures:
        log.error(line)
    for line in _summaries(runs, store):
        log.info(line)
    return 1 if failures else 0


def _check(config: Config) -> None:
    """Refuse a run that cannot work."""
    job.of(config).check(config)


def _elsewhere(runs: Sequence[plan.Planned]) -> list[str]:
    """A line for each process that does runs of the plan just now."""
    counts: Counter[str] = Counter()
    owners = {root: Claims(root).owners() for root in {run.config.results.root for run in runs}}
    for run in runs:
        if (owner := owners[run.config.results.root].get(run.id)) is not None:
            counts[f"process {owner.pid} on {owner.host}"] += 1
    return [f"in work: {count} by {who}" for who, count in sorted(counts.items())]


def _summaries(runs: Sequence[plan.Planned], store: Callable[[str], Store]) -> Iterable[str]:
    # only probes have one; to look at the job of a training run would import torch
    probes = [run for run in runs if run.config.probe is not None]
    for (name, root), config in {_place(run): run.config for run in probes}.items():
        identities = [run.id for run in probes if _place(run) == (name, root)]
        yield from job.of(config).summary(config, store(root), identities)


def _place(run: plan.Planned) -> tuple[str, str]:
    return run.config.job, run.config.results.root
