"""What all launchers have in common."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from petlbench.run.record import Record
from petlbench.sweep.plan import Planned

POLL_S = 1.0  # between two looks at runs of other processes
Signature = tuple[int, int, int]  # of a file: it changes whenever the file is written


@dataclass(frozen=True)
class Assignment:
    """A run to do. seen: the signature of its record when the plan was made, None without one."""

    planned: Planned
    seen: Signature | None


# The record of a run, which another process may have done meanwhile; None while it is doing it.
Execute = Callable[[Assignment], Record | None]


class Launcher(Protocol):
    """Does runs, in this process or in others."""

    def check(self, runs: Sequence[Planned]) -> None:
        """Raise UserError for a setting that cannot work, before the plan is printed."""

    def launch(
        self, assignments: Sequence[Assignment], execute: Execute
    ) -> Iterator[tuple[Planned, Record]]:
        """Yield each run with its record as it ends. A failed run stops no other.

        execute: can be pickled.
        """


def signature(path: Path) -> Signature | None:
    """The signature of a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
