"""Launchers: how the runs of a plan are executed. `basic` runs them here, one after another."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from petlbench.run.record import Record
from petlbench.sweep.plan import Planned, result_line

log = logging.getLogger("petlbench")


def basic(runs: Sequence[Planned], execute: Callable[[dict[str, Any]], Record]) -> list[Record]:
    """Execute each run, tell its result in one line, and go on after failures."""
    records: list[Record] = []
    started = time.monotonic()
    for number, planned in enumerate(runs, 1):
        record = execute(planned.config)
        records.append(record)
        good = sum(found["status"] == "finished" for found in records)
        left_s = (time.monotonic() - started) / number * (len(runs) - number)
        state = f"[{number}/{len(runs)} ok={good} failed={number - good} eta {duration(left_s)}]"
        log.info("%s %s: %s", state, planned.name, result_line(record))
    return records


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.4 h"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
