"""What launchers with workers share: each run ends once, whatever happens to its worker."""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from petlbench.run.claims import Claims
from petlbench.run.once import POLL_S
from petlbench.run.record import Record, Store
from petlbench.sweep.launchers.launcher import Assignment, Execute
from petlbench.sweep.plan import Planned
from petlbench.system import PROCESSORS

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
log = logging.getLogger("petlbench")


@dataclass(frozen=True)
class Lost:
    """Instead of a record: the worker ended before its run did. how: e.g. `signal 9`."""

    how: str


# None: another process does the run; an exception: no later run could be recorded either
Answer = Record | Exception | Lost | None


class Engine(Protocol):
    """Starts runs in other processes and hears of their ends."""

    def start(self, assignments: Sequence[Assignment]) -> None:
        """Start runs, or let them wait for a place."""

    def ended(self, seconds: float) -> list[tuple[Assignment, Answer]]:
        """The runs that have ended since the last call; waits for at most `seconds`."""


def results(
    engine: Engine, assignments: Sequence[Assignment], retries: int
) -> Iterator[tuple[Planned, Record]]:
    """Yield each run with its record as it ends.

    retries: how often a run is tried again after its worker was lost; then it has failed.
    """
    left, others, lost = len(assignments), _Others(), Counter[tuple[str, str]]()
    engine.start(assignments)
    while left:
        engine.start(others.free())
        for work, answer in engine.ended(POLL_S):
            record = answer
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Lost):
                # one identity may be a run below each of several roots
                place = (work.planned.config.results.root, work.planned.id)
                lost[place] += 1
                record = _after(work, answer, lost[place], retries)
                if record is None:
                    engine.start([work])
            elif answer is None:
                others.add(work)
            if isinstance(record, dict):
                left -= 1
                yield work.planned, record


def answer(execute: Execute, assignment: Assignment) -> Record | Exception | None:
    """What `execute` returns or raises."""
    try:
        return execute(assignment)
    except Exception as error:
        return error


def use_processors(number: int) -> None:
    """Let this worker use some processors, with a thread for each."""
    os.environ[PROCESSORS] = str(number)
    use_threads(number)


def use_threads(number: int) -> None:
    """Let this worker compute with a number of threads."""
    os.environ.update(dict.fromkeys(THREADS, str(number)))
    if "torch" in sys.modules:  # which has read the environment already
        sys.modules["torch"].set_num_threads(number)


class _Others:
    """Runs that other processes are doing.

    This process watches their claims: a claim is free when one watcher has seen it unchanged for
    a minute, and each try may have another worker.
    """

    def __init__(self) -> None:
        self.works: list[Assignment] = []
        self.claims = cache(Claims)  # one for each results.root
        self.looked = time.monotonic()

    def add(self, work: Assignment) -> None:
        self.works.append(work)

    def free(self) -> list[Assignment]:
        """The runs that no other process is doing any more; none if it looked just now."""
        if time.monotonic() - self.looked < POLL_S:
            return []
        self.looked = time.monotonic()
        free = [work for work in self.works if self._is_free(work.planned)]
        self.works = [work for work in self.works if work not in free]
        return free

    def _is_free(self, planned: Planned) -> bool:
        return self.claims(planned.config.results.root).is_free(planned.id)


def _after(work: Assignment, lost: Lost, times: int, retries: int) -> Record | None:
    """None to try a run once more, else its record as failed."""
    if times <= retries:
        log.warning("%s: its worker ended (%s); once more", work.planned.name, lost.how)
        return None
    from petlbench.run.lifecycle import blank, ended  # imports torch

    config = work.planned.config
    reason = f"its worker ended {times} times ({lost.how}); memory may be short"
    record = ended(blank(config), "failed", reason)
    Store(config.results.root).write(record)
    return record
