"""The life of a run: a blank record, what fills it, and how it ends."""

import copy
import logging
import random
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
import torch

from petlbench.config.schema import Config
from petlbench.errors import Unsupported, UserError, one_line
from petlbench.run import contents, tracking
from petlbench.run.check import broken
from petlbench.run.identity import identity, placeless
from petlbench.run.logs import SUFFIX, epochs, log_file
from petlbench.run.record import SCHEMA, UNFINISHED, Record, Store
from petlbench.run.result import result_line
from petlbench.train.phase import Diverged

log = logging.getLogger("petlbench")


class InvalidRecord(RuntimeError):
    """A run would leave a record that no reader accepts: a bug of a method, a reader or here."""


@dataclass(frozen=True)
class Run:
    """A run at work: its configuration, the record that it fills, where that goes."""

    config: Config
    record: Record
    store: Store
    tracker: tracking.Tracker


def recorded(config: Config, fill: Callable[[Run], None]) -> Record:
    """A record: filled, tracked and stored, however the run ends.

    Raises UserError for a mistake in the configuration or the data; then nothing is stored.
    """
    store, record = Store(config.results.root), blank(config)
    store.check_replaceable(record)
    store.check_writable()
    with log_file(store.path(record, SUFFIX)):
        run = Run(config, record, store, tracking.start(config, record))
        try:
            record = attempted(run.record, lambda: fill(run))
        except UserError:
            # an open W&B run would be in the way of the next one of this process
            run.tracker.finish(run.record)
            raise
        # the record first: the tracker may wait a minute for its server
        store.write(record)
        # what broke a run, such as a full memory or a lost disk, may be gone at the next start
        if record["status"] not in ("out_of_memory", "failed"):
            shutil.rmtree(store.path(record, UNFINISHED), ignore_errors=True)
        epochs.info("%s", result_line(record))
        run.tracker.finish(record, store.kept(record))
    return record


def attempted(record: Record, fill: Callable[[], None]) -> Record:
    """The record after `fill`, with its status, a reason of one line and the seconds it took.

    Raises UserError for a mistake of the user other than an unsupported pair.
    """
    started, before = time.perf_counter(), copy.deepcopy(record)
    try:
        fill()
        record = _timed(ended(record, "finished", None), started)
        if places := broken(record):
            # no reader accepts it; what is wrong in it must not be stored either
            record = before
            raise InvalidRecord(f"{', '.join(places)} of the record missing or wrong")
        return record
    except UserError as error:
        if not isinstance(error, Unsupported):
            raise
        record = ended(record, "unsupported", str(error))
    except Diverged as error:
        record = ended(record, "diverged", str(error))
    except Exception as error:
        # not KeyboardInterrupt: an interrupted run leaves no record and runs again
        if _is_interrupt(error):
            raise KeyboardInterrupt from error
        record = _broken(record, error)
    return _timed(record, started)


def _timed(record: Record, started: float) -> Record:
    seconds = round(time.perf_counter() - started, 3)
    return record | {"provenance": record["provenance"] | {"seconds": seconds}}


def blank(config: Config) -> Record:
    """The record of a run that has not started."""
    plain, dataset = contents.identified(config), config.dataset
    return {
        "schema": SCHEMA,
        "id": identity(plain),
        "status": "failed",  # until `ended`; W&B shows it for a run that a mistake stops
        "reason": None,
        "factors": asdict(config.factors),
        "protocol": config.protocol.name,
        "title": config.title,
        "task_title": dataset.title,
        "suite": dataset.suite,
        "group": dataset.group,
        "config": placeless(plain),
        "scores": {},
        "selection": {},
        "curve": {"epoch": [], "loss": [], "lr": []},
        "cost": {},
        "notes": {},
        "provenance": {"started": datetime.now(UTC).isoformat(timespec="seconds")},
    }


def ended(record: Record, status: str, reason: str | None) -> Record:
    """The record with its status and a reason of one line."""
    return record | {"status": status, "reason": " ".join(reason.split()) if reason else None}


def failed(config: Config, error: Exception) -> Record:
    """The record of a run that broke before it started; a bug is logged with its traceback."""
    if isinstance(error, UserError):
        return ended(blank(config), "failed", str(error))
    return _broken(blank(config), error)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- third-party code may use the legacy state
    torch.manual_seed(seed)


def out_of_memory(error: BaseException) -> bool:
    """Whether the GPU or the machine had no memory left."""
    # torch has no error type for the CPU's allocator; this is the one place that reads its text.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def _broken(record: Record, error: Exception) -> Record:
    if out_of_memory(error):
        # MemoryError has no message
        message = str(error).strip() or "the machine has no memory left"
        return ended(record, "out_of_memory", message.splitlines()[0])
    trace = "".join(traceback.format_exception(error))
    log.error("%s", trace.rstrip())
    return ended(record, "failed", one_line(error))


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: clean-up code may fail on its way and hide it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
