"""How long a sweep will still take."""

import time
from collections.abc import Iterable

from petlbench.run.record import Record
from petlbench.sweep.plan import Planned


class Eta:
    """Estimates the time that is left from the runs that have ended.

    A run weighs the FLOPs of a training step, counted by its record or by another of the same
    pair of method and backbone, times its epochs; a pair without a count weighs as the mean.
    """

    def __init__(self, runs: Iterable[Planned]) -> None:
        self.left = {run.id: run for run in runs}
        self.gflops: dict[str, float] = {}  # of one image in a training step, by pair
        self.done: list[Planned] = []
        self.started = time.monotonic()

    def ended(self, run: Planned, record: Record) -> None:
        """Note that a run has ended."""
        self.left.pop(run.id, None)
        self.done.append(run)
        if (found := step_gflops(record)) is not None:
            self.gflops[run.pair] = found

    def seconds(self) -> float:
        """Until the end, if it goes on as it went."""
        weights = [self._weight(run) for run in self.done]
        if not weights:
            return 0.0
        left = sum(self._weight(run) for run in self.left.values())
        return (time.monotonic() - self.started) / sum(weights) * left

    def _weight(self, run: Planned) -> float:
        known = self.gflops.values()
        mean = sum(known) / len(known) if known else 1.0
        return self.gflops.get(run.pair, mean) * run.config.train.epochs


def step_gflops(record: Record) -> float | None:
    """GFLOPs of one image in a training step, None if the record has none."""
    found = (record["cost"].get("gflops") or {}).get("step")
    return float(found) if found else None


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.4 h"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
