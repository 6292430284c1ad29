"""hydra/launcher=basic: all runs in this process, one after another."""

import logging
import time
from collections.abc import Iterator, Sequence

from petlbench.run.once import POLL_S, is_free
from petlbench.run.record import Record
from petlbench.sweep.launchers.launcher import Assignment, Execute
from petlbench.sweep.plan import Planned

log = logging.getLogger("petlbench")


class Basic:
    """Does the runs in their order; those of other processes are awaited at the end."""

    is_here = True

    def check(self, runs: Sequence[Planned]) -> None:
        """Nothing can be wrong."""

    def launch(
        self, assignments: Sequence[Assignment], execute: Execute
    ) -> Iterator[tuple[Planned, Record]]:
        """Yield each run with its record as it ends."""
        waiting, others = list(assignments), list[Assignment]()
        while waiting or others:
            for assignment in waiting:
                record = execute(assignment)
                if record is None:
                    others.append(assignment)
                else:
                    yield assignment.planned, record
            if others:
                time.sleep(POLL_S)
            waiting = [work for work in others if is_free(work.planned.config, work.planned.id)]
            others = [work for work in others if work not in waiting]
