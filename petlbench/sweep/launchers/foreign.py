"""Any other launcher that Hydra finds, such as joblib or submitit_slurm.

It gets the overrides of each run and starts them as it likes; each claims its run and writes its
record. The records say afterwards which runs are missing.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher as HydraLauncher
from omegaconf import DictConfig

from petlbench.config import compose
from petlbench.errors import one_line
from petlbench.run.once import awaited, record_signature
from petlbench.run.record import NoRecord, Record, Store, read
from petlbench.sweep.launchers.launcher import Assignment, Execute
from petlbench.sweep.plan import TO_RUN, Planned

log = logging.getLogger("petlbench")


class Foreign:
    """A launcher of Hydra; `run_composed` is its task function."""

    is_here = False

    def __init__(self, launcher: HydraLauncher) -> None:
        self.launcher = launcher

    def check(self, runs: Sequence[Planned]) -> None:
        """Nothing is known of it."""

    def launch(
        self, assignments: Sequence[Assignment], execute: Execute
    ) -> Iterator[tuple[Planned, Record]]:
        """Start all runs; yield them when the launcher has returned."""
        name = type(self.launcher).__name__
        overrides = [list(each.planned.overrides) for each in assignments]
        try:
            for ended in self.launcher.launch(overrides, 0) if overrides else ():
                ended.return_value  # noqa: B018 -- raises what went wrong outside the run
        except Exception as error:  # of its workers, its scheduler, its network
            log.error("%s: %s", name, one_line(error))
        for each in assignments:
            yield each.planned, _found(each, name)


def run_composed(composed: DictConfig) -> None:
    """A run whose configuration a launcher of Hydra has composed, in whatever process."""
    from petlbench.run import contents
    from petlbench.run.identity import identity
    from petlbench.sweep.perform import execute  # imports torch

    config = compose.finish(composed, dict(HydraConfig.get().runtime.choices))
    name = identity(contents.identified(config))
    assignment = Assignment(Planned(config, name, TO_RUN), record_signature(config, name))
    awaited(config, name, lambda: execute(assignment))


def _found(assignment: Assignment, launcher: str) -> Record:
    """What the store has of a run now."""
    from petlbench.run.lifecycle import blank, ended  # imports torch

    planned = assignment.planned
    store = Store(planned.config.results.root)
    if (path := store.find(planned.id)) is not None:
        return read(path)
    if record_signature(planned.config, planned.id) != assignment.seen:
        with contextlib.suppress(NoRecord):
            return read(store.path(blank(planned.config)))
    return ended(blank(planned.config), "failed", f"{launcher} has left no record of it")
