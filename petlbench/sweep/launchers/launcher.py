"""What all launchers have in common."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from petlbench.run.once import Signature
from petlbench.run.record import Record
from petlbench.sweep.plan import Planned


@dataclass(frozen=True)
class Assignment:
    """A run to do. seen: the signature of its record when the plan was made, None without one."""

    planned: Planned
    seen: Signature | None


# The record of a run, which another process may have done meanwhile; None while it is doing it.
Execute = Callable[[Assignment], Record | None]


class Launcher(Protocol):
    """Does runs, in this process or in others.

    is_here: whether they are done on this machine; False where that is not known.
    """

    is_here: bool

    def check(self, runs: Sequence[Planned]) -> None:
        """Raise UserError for a setting that cannot work, before the plan is printed."""

    def launch(
        self, assignments: Sequence[Assignment], execute: Execute
    ) -> Iterator[tuple[Planned, Record]]:
        """Yield each run with its record as it ends. A failed run stops no other.

        execute: can be pickled.
        """
