"""A sweep from plan to summary."""

import logging
from collections.abc import Iterable
from typing import Any

from petlbench import build
from petlbench.errors import UserError
from petlbench.record import Record, Store, StoreError
from petlbench.run import blank, ended, run
from petlbench.sweep import plan
from petlbench.sweep.launch import basic

log = logging.getLogger("petlbench")


def sweep(configs: Iterable[dict[str, Any]], *, dry_run: bool) -> int:
    """Plan, run what is not finished, and tell all failures. Returns the exit code: 0 or 1.

    Raises UserError for a mistake of the command, before any run.
    """
    composed = list(configs)
    store = Store(composed[0]["results"]["root"]) if composed else Store("results/runs")
    runs = plan.build(composed, store.finished(), build.check)
    log.info(plan.headline(runs))
    for line in [*plan.refusals(runs), *(plan.listing(runs) if dry_run else ())]:
        log.info(line)
    if dry_run:
        return 0
    store.check_writable()
    store.sweep_leftovers()
    for planned in runs:
        if planned.state == plan.UNSUPPORTED:
            store.write(ended(blank(planned.config), "unsupported", planned.reason))
    to_run = [planned for planned in runs if planned.state == plan.TO_RUN]
    records = basic(to_run, execute)
    log.info("records: %s", store.root)
    failed = [(planned, r) for planned, r in zip(to_run, records, strict=True) if r["status"] != "finished"]
    for planned, record in failed:
        log.error("failed: %s: %s", planned.name, plan.result_line(record))
    return 1 if failed else 0


def execute(config: dict[str, Any]) -> Record:
    """One run of a sweep: a mistake that would end a single run fails this one only."""
    try:
        return run(config)
    except StoreError:
        raise
    except UserError as error:
        record = ended(blank(config), "failed", str(error))
        Store(config["results"]["root"]).write(record)
        return record
