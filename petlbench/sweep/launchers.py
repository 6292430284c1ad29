"""Launchers execute the runs of a plan; `basic` does so in this process, one after another."""

import logging
import time
from collections.abc import Callable, Sequence

from petlbench.config.schema import Config
from petlbench.run.record import Record
from petlbench.run.result import result_line
from petlbench.sweep.plan import Planned

log = logging.getLogger("petlbench")


def basic(runs: Sequence[Planned], execute: Callable[[Config], Record]) -> list[Record]:
    """Execute each run, log its result in one line, and go on after failures."""
    records: list[Record] = []
    started = time.monotonic()
    for number, planned in enumerate(runs, 1):
        record = execute(planned.config)
        records.append(record)
        finished = sum(one["status"] == "finished" for one in records)
        # rough: the remaining methods and tasks may take longer than those before
        left_s = (time.monotonic() - started) / number * (len(runs) - number)
        counts = f"ok={finished} failed={number - finished}"
        state = f"[{number}/{len(runs)} {counts} eta {duration(left_s)}]"
        log.info("%s %s: %s", state, planned.name, result_line(record))
    return records


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.4 h"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
