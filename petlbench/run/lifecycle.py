"""The life of a run: a blank record, what fills it, and how it ends."""

import logging
import random
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch

from petlbench.errors import Unsupported, UserError
from petlbench.run import tracking
from petlbench.run.record import SCHEMA, Record, Store, identity, placeless
from petlbench.train.trainer import Diverged

log = logging.getLogger("petlbench")
Config = Mapping[str, Any]
Fill = Callable[[Record, Config, Store, tracking.Tracker], None]


def recorded(config: Config, fill: Fill) -> Record:
    """A record, filled, tracked and stored."""
    store = Store(config["results"]["root"])
    store.check_writable()
    record = blank(config)
    tracker = tracking.start(config)
    try:
        record = attempted(record, partial(fill, record, config, store, tracker))
    except UserError:
        tracker.finish(record)
        raise
    store.write(record)
    tracker.finish(record)
    return record


def attempted(record: Record, fill: Callable[[], None]) -> Record:
    """The record after `fill`, with its status, a reason of one line and the seconds it took.

    Raises UserError for a mistake of the user's that is no refusal of a pair.
    """
    started = time.perf_counter()
    try:
        fill()
        record = ended(record, "finished", None)
    except Unsupported as error:
        record = ended(record, "unsupported", str(error))
    except UserError:
        raise
    except Diverged as error:
        record = ended(record, "diverged", str(error))
    except (torch.OutOfMemoryError, MemoryError) as error:
        record = ended(record, "out_of_memory", str(error) or "the machine has no memory left")
    except Exception as error:
        if _interrupted(error):
            raise KeyboardInterrupt from error
        if "allocate memory" in str(error):  # torch has no error of its own for the CPU's
            record = ended(record, "out_of_memory", str(error).splitlines()[0])
        else:
            log.error("%s", traceback.format_exc())
            record = ended(record, "failed", f"{type(error).__name__}: {error}")
    record["provenance"]["seconds"] = round(time.perf_counter() - started, 3)
    return record


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C lies behind an error: code that tidies up on its way may fail and hide it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def blank(config: Config) -> Record:
    """The record of a run that has not begun."""
    dataset = config["dataset"]
    return {
        "schema": SCHEMA,
        "id": identity(config),
        "status": "failed",
        "reason": None,
        "factors": dict(config["factors"]),
        "protocol": config["protocol"]["name"],
        "title": config["title"],
        "task_title": dataset["title"],
        "suite": dataset["suite"],
        "group": dataset["group"],
        "config": placeless(config),
        "scores": {},
        "selection": {},
        "curve": {"epoch": [], "loss": [], "lr": []},
        "cost": {},
        "notes": {},
        "provenance": {"started": datetime.now(UTC).isoformat(timespec="seconds")},
    }


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- third-party code may use the legacy state
    torch.manual_seed(seed)


def ended(record: Record, status: str, reason: str | None) -> Record:
    """The record with its status and a reason of one line."""
    return record | {"status": status, "reason": " ".join(reason.split()) if reason else None}
