"""Weights & Biases: one W&B run for each run. An error of W&B never stops the run.

`wandb.mode` is `disabled` (nothing is imported), `offline` (files in wandb/ below `results.root`,
sent later by `wandb sync`) or `online`. If the server of WANDB_BASE_URL does not answer, an online
run goes on offline, with one warning. Only records store results: W&B's files lose unflushed data
if the process is killed.
"""

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from petlbench.config.schema import Config
from petlbench.run.identity import placeless, without_folders

log = logging.getLogger("petlbench")

SERVER = "https://api.wandb.ai"
REACH_S = 3  # until the first answer of the server, with name resolution
INIT_S = 10  # until the run is open on the server
FINISH_S = 60  # to send the rest of the data; wandb itself would try for days
TAG_LENGTH = 64  # W&B refuses longer ones
COSTS = ("saved_mb", "train_s", "train_images_per_s", "test_images_per_s")


class Tracker:
    """The interface of trackers; this one tracks nothing (mode `disabled`)."""

    def epoch(self, epoch: int, loss: float, lr: float) -> None:
        """Log the mean training loss and the learning rate of an epoch."""

    def finish(self, record: Mapping[str, Any]) -> None:
        """Log the scores and costs of the record, and close the W&B run."""


class WandbTracker(Tracker):
    """Logs to a W&B run; after the first error it warns once and stops."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def epoch(self, epoch: int, loss: float, lr: float) -> None:
        """Log one epoch as the row of that step."""
        row = {"epoch": epoch, "loss": loss, "lr": lr}
        self._guarded(lambda run: run.log(row, step=epoch))

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the summary; W&B shows a status other than `finished` as failed."""
        self._guarded(lambda run: run.summary.update(summary(record)))
        code = int(record["status"] != "finished")
        self._guarded(lambda run: _within(FINISH_S, lambda: run.finish(exit_code=code)))
        self.run = None

    def _guarded(self, action: Callable[[Any], object]) -> None:
        if self.run is None:
            return
        try:
            action(self.run)
        except Exception as error:
            log.warning("wandb: %s; this run is tracked no further", _line(error))
            self.run = None


def start(config: Config) -> Tracker:
    """The tracker of a run; if W&B cannot start, a warning and a tracker that does nothing."""
    mode = config.wandb.mode
    if mode == "disabled":
        return Tracker()
    try:
        run = _init(config, mode)
    except Exception as error:
        log.warning("wandb: %s; this run is not tracked", _line(error))
        return Tracker()
    log.info("wandb: %s", run.dir if run.offline else run.url)
    return WandbTracker(run)


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Values for dashboards: top1 per test set, costs, status, weights, record; no nulls."""
    scores = {f"{name}/top1": score["top1"] for name, score in record["scores"].items()}
    cost = record["cost"]
    values = {
        **scores,
        **{name: cost.get(name) for name in COSTS},
        "parameters_method": cost.get("parameters", {}).get("method"),
        "peak_mib": (cost.get("peak_mib") or {}).get("allocated"),
        "predicted_peak_mib": (cost.get("predicted_mib") or {}).get("allocated"),
        "status": record["status"],
        "reason": without_folders(record["reason"] or "") or None,
        "checkpoint_sha256": record["provenance"].get("checkpoint", {}).get("sha256"),
        "record": record["id"],
    }
    return {name: value for name, value in values.items() if value is not None}


def _init(config: Config, mode: str) -> Any:
    """A W&B run, offline if the server does not answer or refuses the run."""
    import wandb

    wandb.setup(settings=_quiet())  # first, because other calls print
    if wandb.run is not None:  # left open by an interrupted run of this process
        _within(FINISH_S, lambda: wandb.finish(exit_code=1))
    if mode == "online":
        try:
            _reach(os.environ.get("WANDB_BASE_URL") or SERVER)
            return wandb.init(mode="online", **_arguments(config))
        except Exception as error:
            log.warning("wandb: %s; going on offline, `wandb sync` sends it later", _line(error))
            wandb.teardown()  # wandb's service still waits for the refused run
            wandb.setup(settings=_quiet())
    return wandb.init(mode="offline", **_arguments(config))


def _arguments(config: Config) -> dict[str, Any]:
    factors, dataset, settings = config.factors, config.dataset, config.wandb
    tags = [dataset.suite, dataset.group, factors.method, factors.backbone]
    return {
        "project": settings.project,
        "entity": settings.entity,
        "name": f"{factors.method}-{factors.task}-{factors.seed}",
        "group": settings.group or dataset.suite,
        "job_type": "train",
        "tags": list(dict.fromkeys(str(tag)[:TAG_LENGTH] for tag in [*tags, *settings.tags])),
        "config": placeless(config.plain()),
        "dir": config.results.root,
        "settings": _quiet(),
    }


def _quiet() -> Any:
    import wandb

    # console: W&B would otherwise wrap stdout and stderr; x_disable_meta: it would send the
    # command line, the folder it ran in and the name of the machine
    return wandb.Settings(
        quiet=True, silent=True, console="off", init_timeout=INIT_S, x_disable_meta=True
    )


def _reach(url: str) -> None:
    """Check that the server answers, through the proxy if there is one; raises ConnectionError.

    wandb-core itself waits for minutes if a server accepts a connection and does not answer.
    """
    try:
        _within(REACH_S, lambda: urlopen(f"{url.rstrip('/')}/healthz", timeout=REACH_S).close())
    except HTTPError:
        return  # an HTTP error is an answer
    except Exception as error:
        if not isinstance(getattr(error, "reason", None), SSLError):  # it has its own CAs
            raise ConnectionError(f"no answer from {url} ({_line(error)})") from error


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Run an action that may block forever, such as name resolution; raises TimeoutError."""
    outcome: queue.Queue[Exception | None] = queue.Queue()

    def act() -> None:
        try:
            action()
            outcome.put(None)
        except Exception as error:
            outcome.put(error)

    # daemon: a thread that still blocks does not keep the process alive
    threading.Thread(target=act, daemon=True).start()
    error: Exception | None = TimeoutError(f"no answer in {seconds} s")
    with contextlib.suppress(queue.Empty):
        error = outcome.get(timeout=seconds)
    if error is not None:
        raise error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
