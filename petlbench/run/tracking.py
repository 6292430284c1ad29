"""Weights & Biases: one W&B run for each record, under its id. An error of W&B never stops a run.

`wandb.mode` is `disabled` (nothing is imported), `offline` (files in wandb/ below `results.root`,
sent later by `wandb sync`) or `online`. If the server of WANDB_BASE_URL does not answer, an online
run goes on offline, with one warning. Only records store results: W&B's files lose unflushed data
if the process is killed, and `python -m petlbench.tracking push` sends a record later.
"""

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from petlbench.config.schema import Config, WandbConfig
from petlbench.errors import UserError
from petlbench.run.identity import without_folders

log = logging.getLogger("petlbench")

SWEEP, RUN = "WANDB_SWEEP_ID", "WANDB_RUN_ID"  # set by an agent of W&B's sweeps
SERVER = "https://api.wandb.ai"
REACH_S = 3  # until the first answer of the server, with name resolution
INIT_S = 10  # until the run is open on the server
FINISH_S = 60  # to send the rest of the data; wandb itself would try for days
LATER = "`python -m petlbench.tracking push` sends it later"
TAG_LENGTH = 64  # W&B refuses longer ones
ROW = ("epoch", "loss", "lr")
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
        row = dict(zip(ROW, (epoch, loss, lr), strict=True))
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
            log.warning("wandb: %s; this run is tracked no further, %s", _line(error), LATER)
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
        run = _init(config.wandb, _arguments(record, config.wandb, config.results.root))
        # which W&B prefers to a given id there, so that its agent finds the run that it named
        os.environ.pop(RUN, None)
    except Exception as error:
        log.warning("wandb: %s; this run is not tracked, %s", _line(error), LATER)
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


class Outbox:
    """Sends records to a project of W&B, each to the run with its id.

    project: its name and entity; null: the user's. folder: where W&B keeps its files meanwhile.
    Raises UserError if W&B cannot be reached or refuses something.
    """

    def __init__(self, entity: str | None, project: str, folder: str) -> None:
        self.folder = folder
        with _explained():
            import wandb

            _reach(_server())
            wandb.setup(settings=_quiet())
            api = wandb.Api(timeout=FINISH_S)
            self.project = f"{entity or api.default_entity}/{project}"
            self._states = _states(api, self.project)

    def has(self, record: Mapping[str, Any]) -> bool:
        """Whether W&B has this record, by its id and by whether it finished."""
        state = "finished" if record["status"] == "finished" else "failed"
        return self._states.get(record["id"]) == state

    def send(self, record: Mapping[str, Any], settings: WandbConfig) -> None:
        """Send the configuration, the curve and the summary; replaces what W&B has of the run."""
        import wandb

        with _explained():
            run = wandb.init(mode="online", **_arguments(record, settings, self.folder))
            columns = [record["curve"].get(name, []) for name in ROW]
            for values in zip(*columns, strict=True):
                run.log(row := dict(zip(ROW, values, strict=True)), step=row["epoch"])
            run.summary.update(summary(record))
            code = int(record["status"] != "finished")
            _within(FINISH_S, lambda: run.finish(exit_code=code))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Whatever goes wrong in W&B, as a UserError."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"wandb: {_line(error)}; see WANDB_BASE_URL and WANDB_API_KEY (`wandb login`)"
        ) from error


def _states(api: Any, project: str) -> dict[str, str]:
    """The states of the runs of a project by their ids; none if there is no such project."""
    try:
        return {run.id: run.state for run in api.runs(project, per_page=1000)}
    except ValueError as error:
        if "find project" in str(error):
            return {}
        raise


def _init(settings: WandbConfig, arguments: Mapping[str, Any]) -> Any:
    """A W&B run, offline if the server does not answer or refuses the run."""
    import wandb

    wandb.setup(settings=_quiet())  # first, because other calls print
    if wandb.run is not None:  # left open by an interrupted run of this process
        _within(FINISH_S, lambda: wandb.finish(exit_code=1))
    if settings.mode == "online":
        try:
            _reach(_server())
            return wandb.init(mode="online", **arguments)
        except Exception as error:
            log.warning("wandb: %s; going on offline, %s", _line(error), LATER)
            wandb.teardown()  # wandb's service still waits for the refused run
            wandb.setup(settings=_quiet())
    return wandb.init(mode="offline", **arguments)


def _arguments(
    record: Mapping[str, Any], settings: WandbConfig, folder: str | None
) -> dict[str, Any]:
    factors = record["factors"]
    tags = [record["suite"], record["group"], factors["method"], factors["backbone"]]
    return {
        # given always: WANDB_RUN_ID would make all runs of a sweep one
        "id": record["id"],
        "project": settings.project,
        "entity": settings.entity,
        "name": f"{factors['method']}-{factors['task']}-{factors['seed']}",
        "group": settings.group or record["suite"],
        "job_type": "train",
        "tags": list(dict.fromkeys(str(tag)[:TAG_LENGTH] for tag in [*tags, *settings.tags])),
        "config": record["config"],
        "dir": folder,
        "settings": _quiet(),
    }


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL") or SERVER


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
