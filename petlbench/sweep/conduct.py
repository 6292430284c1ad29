"""A sweep from plan to summary."""

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from petlbench.errors import UserError
from petlbench.run import build, job, tracking
from petlbench.run.lifecycle import blank, ended
from petlbench.run.record import Record, Store
from petlbench.sweep import plan
from petlbench.sweep.launchers import basic
from petlbench.system import WriteError
from petlbench.train.precision import Precision

log = logging.getLogger("petlbench")


def sweep(combinations: Sequence[plan.Combination], *, dry_run: bool) -> int:
    """Plan, run what is not finished, and tell all failures. Returns the exit code: 0 or 1.

    Raises UserError for a mistake of the command, before any run.
    """
    roots = [config["results"]["root"] for config, _ in combinations[:1]]
    store = Store(*roots or ["results/runs"])
    runs = plan.build(combinations, store.finished(), check)
    log.info(plan.headline(runs))
    for line in [*plan.refusals(runs), *(plan.listing(runs) if dry_run else ())]:
        log.info(line)
    return 0 if dry_run else perform(runs, store)


def check(config: dict[str, Any]) -> None:
    """Refuse a run that cannot be."""
    job.of(config).check(config)


def perform(runs: Sequence[plan.Planned], store: Store) -> int:
    """Record the unsupported runs, do those to run, tell all failures."""
    to_run = [planned for planned in runs if planned.state == plan.TO_RUN]
    check_place(to_run)
    store.check_writable()
    store.sweep_leftovers()
    finished = store.finished()  # what one recipe does not have, another may have run
    for planned in runs:
        if planned.state == plan.UNSUPPORTED and planned.id not in finished:
            store.write(ended(blank(planned.config), "unsupported", planned.reason))
    records = basic(to_run, execute)
    log.info("records: %s", store.root)
    told = [
        f"failed: {planned.name}: {plan.result_line(record)}"
        for planned, record in zip(to_run, records, strict=True)
        if record["status"] != "finished"
    ]
    for line in told:
        log.error(line)
    for name, config in {run.config["job"]: run.config for run in runs}.items():
        asked = [run.id for run in runs if run.config["job"] == name]
        for line in job.of(config).closing(config, store, asked):
            log.info(line)
    return 1 if told else 0


def check_place(runs: Sequence[plan.Planned]) -> None:
    """Refuse what is not to be had here before the first run: device, precision, weights, data.

    The first backbone or task that is refused is told whole, the others by their names.
    """
    for config in _differing(runs, "wandb"):
        tracking.check(config)
    for config in (*_differing(runs, "device"), *_differing(runs, "train")):
        Precision(config["train"]["precision"], build.device(config))
    for node, factor, ask in (
        ("backbone", "backbone", build.weights),
        ("dataset", "task", build.data),
    ):
        mistakes: dict[str, str] = {}
        for config in _differing(runs, node):
            try:
                ask(config)
            except UserError as error:
                mistakes[config["factors"][factor]] = str(error)
        if mistakes:
            (_, first), *others = mistakes.items()
            also = f" (refused too: {', '.join(name for name, _ in others)})" if others else ""
            raise UserError(first + also)


def _differing(runs: Sequence[plan.Planned], node: str) -> Iterable[dict[str, Any]]:
    """One configuration for each value that a node has in the runs."""
    return {json.dumps(run.config[node], sort_keys=True): run.config for run in runs}.values()


def execute(config: dict[str, Any]) -> Record:
    """One run of a sweep: a mistake that would end a single run fails this one only."""
    try:
        return job.of(config).execute(config)
    except WriteError:
        raise
    except UserError as error:
        record = ended(blank(config), "failed", str(error))
        Store(config["results"]["root"]).write(record)
        return record
