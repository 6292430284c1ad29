"""Weights & Biases: one W&B run beside each run; whatever fails there, the run goes on.

`wandb.mode` is `disabled` (nothing is imported), `offline` (a folder wandb/ below
`results.root`, sent later by `wandb sync`) or `online`. If the server of WANDB_BASE_URL does
not answer, an online run goes on offline and says so in one line. Records stay the only result
store: W&B's own files lose what was not yet flushed when a process is killed.
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

log = logging.getLogger("petlbench")

SERVER = "https://api.wandb.ai"
REACH_S = 3  # for the first answer of the server, name resolution included
INIT_S = 10  # for opening the run there
FINISH_S = 60  # for what is still to be sent; wandb itself would try for days
TAG_LENGTH = 64  # W&B refuses longer ones
COSTS = ("saved_mb", "train_s", "train_images_per_s", "test_images_per_s")


class Tracker:
    """Tracks nothing: mode `disabled`, and the interface of all trackers."""

    def epoch(self, epoch: int, loss: float, lr: float) -> None:
        """Note one epoch: its mean training loss and learning rate."""

    def finish(self, record: Mapping[str, Any]) -> None:
        """Note the record's scores and costs, and end."""


class WandbTracker(Tracker):
    """Hands on to a W&B run until something goes wrong there; then warns once and stops."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def epoch(self, epoch: int, loss: float, lr: float) -> None:
        """Note one epoch as the row of that step."""
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
    """The tracker of one run; a W&B that fails costs a warning, not the run."""
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
    """What a dashboard compares: top1 per test set, costs, status and origin; no null values."""
    scores = {f"{name}/top1": score["top1"] for name, score in record["scores"].items()}
    cost = record["cost"]
    values = {
        **scores,
        **{name: cost.get(name) for name in COSTS},
        "parameters_method": cost.get("parameters", {}).get("method"),
        "peak_mib": (cost.get("peak_mib") or {}).get("allocated"),
        "predicted_peak_mib": (cost.get("predicted_mib") or {}).get("allocated"),
        "status": record["status"],
        "reason": record["reason"],
        "checkpoint_sha256": record["provenance"].get("checkpoint", {}).get("sha256"),
        "record": record["id"],
    }
    return {name: value for name, value in values.items() if value is not None}


def _init(config: Config, mode: str) -> Any:
    """A W&B run, offline if the server does not answer or refuses us."""
    import wandb

    wandb.setup(settings=_quiet())  # before anything else speaks
    if wandb.run is not None:  # an interrupted run of this process left it open
        _within(FINISH_S, lambda: wandb.finish(exit_code=1))
    if mode == "online":
        try:
            _reach(os.environ.get("WANDB_BASE_URL") or SERVER)
            return wandb.init(mode="online", **_arguments(config))
        except Exception as error:
            log.warning("wandb: %s; going on offline, `wandb sync` sends it later", _line(error))
            wandb.teardown()  # its service still waits for the refused run
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
        "config": config.plain(),
        "dir": config.results.root,
        "settings": _quiet(),
    }


def _quiet() -> Any:
    import wandb

    return wandb.Settings(quiet=True, silent=True, console="off", init_timeout=INIT_S)


def _reach(url: str) -> None:
    """Ask the server for any answer, through the proxy if there is one; raises an exception.

    wandb-core itself hangs for minutes on a server that accepts a connection and stays silent.
    """
    try:
        _within(REACH_S, lambda: urlopen(f"{url.rstrip('/')}/healthz", timeout=REACH_S).close())
    except HTTPError:
        return  # a refusal is an answer
    except Exception as error:
        if not isinstance(getattr(error, "reason", None), SSLError):  # wandb has its own CAs
            raise ConnectionError(f"no answer from {url} ({_line(error)})") from error


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Do something that may block without end, such as name resolution; raises TimeoutError."""
    outcome: queue.Queue[Exception | None] = queue.Queue()

    def act() -> None:
        try:
            action()
            outcome.put(None)
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=act, daemon=True).start()
    error: Exception | None = TimeoutError(f"no answer in {seconds} s")
    with contextlib.suppress(queue.Empty):
        error = outcome.get(timeout=seconds)
    if error is not None:
        raise error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
