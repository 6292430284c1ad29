"""Weights & Biases: one W&B run for each record, under its id. An error of W&B never stops a run.

`wandb.mode` is `disabled` (nothing is imported), `offline` (files in wandb/ below `results.root`,
sent later by `wandb sync`) or `online`. If the server of WANDB_BASE_URL does not answer, an online
run goes on offline, with one warning. Only records store results: W&B's files lose unflushed data
if the process is killed, and `python -m petlbench.tracking push` sends a record later. With
`wandb.artifacts`, the record and its delta are an artifact of the run.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from petlbench.config.job_nodes import WandbConfig
from petlbench.config.schema import Config
from petlbench.errors import UserError
from petlbench.run.wandb_client import INIT_S, line, quiet, reach, within
from petlbench.run.wandb_run import ROW, arguments, complete

log = logging.getLogger("petlbench")

SWEEP, RUN = "WANDB_SWEEP_ID", "WANDB_RUN_ID"  # set by an agent of W&B's sweeps
LATER = "`python -m petlbench.tracking push` sends it later"


class Tracker:
    """The interface of trackers; this one tracks nothing (mode `disabled`)."""

    def epoch(self, epoch: int, loss: float, lr: float) -> None:
        """Log the mean training loss and the learning rate of an epoch."""

    def finish(self, record: Mapping[str, Any], files: Sequence[Path] = ()) -> None:
        """Log the scores, the costs and the files of the record, and close the W&B run."""


class WandbTracker(Tracker):
    """Logs to a W&B run; after the first error it warns once and stops.

    artifacts: whether it sends the files.
    """

    def __init__(self, run: Any, *, artifacts: bool) -> None:
        self.run = run
        self.artifacts = artifacts

    def epoch(self, epoch: int, loss: float, lr: float) -> None:
        """Log one epoch as the row of that step."""
        row = dict(zip(ROW, (epoch, loss, lr), strict=True))
        self._guarded(lambda run: run.log(row, step=epoch))

    def finish(self, record: Mapping[str, Any], files: Sequence[Path] = ()) -> None:
        """Write the summary and the files."""
        sent = files if self.artifacts else ()
        self._guarded(lambda run: complete(run, record, sent))
        self.run = None

    def _guarded(self, action: Callable[[Any], object]) -> None:
        if self.run is None:
            return
        try:
            action(self.run)
        except Exception as error:
            log.warning("wandb: %s; this run is tracked no further, %s", line(error), LATER)
            self.run = None


def start(config: Config, record: Mapping[str, Any]) -> Tracker:
    """The tracker of a run with a blank record.

    If W&B cannot start, a warning and a tracker that does nothing.
    """
    if config.wandb.mode == "disabled":
        return Tracker()
    try:
        if SWEEP in os.environ and RUN not in os.environ:
            raise UserError(
                "a job of W&B's sweeps tracks one run; name one task and one seed in it"
            )
        run = _init(config.wandb, arguments(record, config.wandb, config.results.root))
        # which W&B prefers to a given id there, so that its agent finds the run that it named
        os.environ.pop(RUN, None)
    except Exception as error:
        log.warning("wandb: %s; this run is not tracked, %s", line(error), LATER)
        return Tracker()
    log.info("wandb: %s", run.dir if run.offline else run.url)
    return WandbTracker(run, artifacts=config.wandb.artifacts)


def _init(settings: WandbConfig, given: Mapping[str, Any]) -> Any:
    """A W&B run, offline if the server does not answer or refuses the run."""
    import wandb

    wandb.setup(settings=quiet())  # first, because other calls print
    if wandb.run is not None:  # left open by an interrupted run, or by a lost server
        _abandon(wandb)
    if settings.mode == "online":
        try:
            reach()
            return wandb.init(mode="online", **given)
        except Exception as error:
            log.warning("wandb: %s; going on offline, %s", line(error), LATER)
            wandb.teardown()  # wandb's service still waits for the refused run
            wandb.setup(settings=quiet())
    return wandb.init(mode="offline", **given)


def _abandon(wandb: Any) -> None:
    """Close a run that another one follows."""
    try:
        within(INIT_S, lambda: wandb.finish(exit_code=1))
    except TimeoutError:
        within(INIT_S, wandb.teardown)
        wandb.setup(settings=quiet())
