"""Does the runs of a plan. Imports torch."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

from petlbench.config.schema import Config
from petlbench.data import configured
from petlbench.errors import UserError
from petlbench.progress import bar
from petlbench.run import build, job, splits
from petlbench.run.lifecycle import blank, ended, failed
from petlbench.run.once import once, record_signature
from petlbench.run.record import Record, Store
from petlbench.run.result import result_line
from petlbench.sweep import plan, plans
from petlbench.sweep.estimate import Eta, duration
from petlbench.sweep.launchers.launcher import Assignment, Launcher
from petlbench.system import WriteError

log = logging.getLogger("petlbench")


def check(runs: Sequence[plan.Planned], *, dry_run: bool, is_here: bool = True) -> None:
    """Refuse wrong values of a reader, and what this machine lacks, before the plan is printed.

    Devices, formats, weights and data may be missing where only a plan is made. is_here: whether
    the runs are done on this machine; the devices and formats of another one are not known. The
    message is that of the first refused backbone or task; the others are named.
    """
    for config in _differing(runs, "dataset"):
        configured.reader(config)
    if dry_run:
        return
    to_run = _to_run(runs)
    for config in _differing(to_run, "device", "train") if is_here else ():
        build.machine(config)
    _refuse_all(_differing(to_run, "backbone"), build.weights, lambda c: c.factors.backbone)
    _refuse_all(_differing(to_run, "dataset"), splits.data, _task_name)


def prepare(runs: Sequence[plan.Planned]) -> None:
    """Decode the images of runs. Raises UserError for broken ones.

    It takes longest of all checks, so the plan is printed before.
    """
    _refuse_all(_differing(runs, "dataset", "protocol", "input"), splits.prepared, _task_name)


def perform(
    runs: Sequence[plan.Planned], store: Callable[[str], Store], launcher: Launcher
) -> list[str]:
    """Record the refused runs of a plan and do those to run. Returns a line for each failure.

    store: the records below a results.root.
    """
    to_run = _to_run(runs)
    prepare(to_run)  # first: a mistake leaves no file
    for root in dict.fromkeys(planned.config.results.root for planned in runs):
        store(root).check_writable()
        store(root).clean()
    _record_refused(runs, store)
    plans.keep(runs)
    failures = []
    for planned, record in _launched(to_run, store, launcher):
        if record["status"] != "finished":
            failures.append(f"{record['status']}: {planned.name}: {record['reason']}")
    failures += [f"failed: {p.name}: {p.reason}" for p in runs if p.state == plan.BROKEN]
    return failures


def _launched(
    to_run: Sequence[plan.Planned], store: Callable[[str], Store], launcher: Launcher
) -> Iterator[tuple[plan.Planned, Record]]:
    """Each run with its record as it ends, after a line about it."""
    assignments = [
        Assignment(planned, record_signature(planned.config, planned.id)) for planned in to_run
    ]
    if not assignments:  # all are refused: a launcher has no use for no run
        return
    left, finished = _eta(to_run, store), 0
    launched = bar(launcher.launch(assignments, execute), "runs", len(to_run))
    for number, (planned, record) in enumerate(launched, 1):
        left.ended(planned.config, record)
        finished += record["status"] == "finished"
        counts = f"ok={finished} failed={number - finished} eta {duration(left.seconds())}"
        log.info(
            "[%d/%d %s] %s: %s", number, len(to_run), counts, planned.name, result_line(record)
        )
        yield planned, record


def _eta(to_run: Sequence[plan.Planned], store: Callable[[str], Store]) -> Eta:
    configs = [planned.config for planned in to_run]
    roots = dict.fromkeys(config.results.root for config in configs)
    return Eta(configs, (record for root in roots for record in store(root).records()))


def _to_run(runs: Iterable[plan.Planned]) -> list[plan.Planned]:
    return [planned for planned in runs if planned.state == plan.TO_RUN]


def _record_refused(runs: Sequence[plan.Planned], store: Callable[[str], Store]) -> None:
    """A record for each unsupported or broken run, unless another recipe has finished it."""
    finished = cache(lambda root: store(root).finished())  # of each results.root
    logged: set[tuple[str, str | None]] = set()
    for planned in runs:
        if planned.state not in (plan.UNSUPPORTED, plan.BROKEN):
            continue
        root = planned.config.results.root
        # by a recipe with equal values, since `recipe` is not part of the identity
        if planned.id in finished(root):
            continue
        if planned.state == plan.UNSUPPORTED:
            store(root).write(ended(blank(planned.config), "unsupported", planned.reason))
        elif planned.error is not None:
            record = ended(blank(planned.config), "failed", planned.reason)
            if (planned.pair, planned.reason) not in logged:  # the traceback, once per pair
                record = failed(planned.config, planned.error)
                logged.add((planned.pair, planned.reason))
            store(root).write(record)


def _refuse_all(
    configs: Iterable[Config], check: Callable[[Config], object], name: Callable[[Config], str]
) -> None:
    mistakes: dict[str, str] = {}
    for config in configs:
        try:
            check(config)
        except UserError as error:
            mistakes[name(config)] = str(error)
    if mistakes:
        (_, first), *others = mistakes.items()
        also = f" (refused too: {', '.join(other for other, _ in others)})" if others else ""
        raise UserError(first + also)


def _task_name(config: Config) -> str:
    return config.factors.task


def _differing(runs: Sequence[plan.Planned], *nodes: str) -> Iterable[Config]:
    """One configuration for each combination of values that some nodes have in the runs."""
    by_values = {}
    for run in runs:
        plain = run.config.plain()
        by_values[json.dumps([plain[node] for node in nodes], sort_keys=True)] = run.config
    return by_values.values()


def execute(assignment: Assignment) -> Record | None:
    """One run of a sweep, or what another process has made of it; None while one is at it.

    A mistake that would end a single run fails this one only.
    """
    config = assignment.planned.config
    return once(config, assignment.seen, lambda: _attempted(config))


def _attempted(config: Config) -> Record:
    try:
        return job.of(config).execute(config)
    except WriteError:  # no later run could be recorded either
        raise
    except UserError as error:
        record = failed(config, error)
        Store(config.results.root).write(record)
        return record
