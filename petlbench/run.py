"""One run: one method on one backbone, task and seed."""

import logging
import random
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from petlbench import build, delta, provenance, tracking
from petlbench.cost.section import section
from petlbench.data.task import Score, Task
from petlbench.errors import Unsupported, UserError
from petlbench.interface import Method
from petlbench.job import Job
from petlbench.record import SCHEMA, Record, Store, identity, placeless
from petlbench.train.precision import Precision
from petlbench.train.trainer import Diverged, Epoch, Trainer

log = logging.getLogger("petlbench")
Config = Mapping[str, Any]
Fill = Callable[[Record, Config, Store, tracking.Tracker], None]


def run(config: Config) -> Record:
    """Build, fit, open the tests, measure, record.

    What goes wrong on the way is recorded with its status and reason. Raises UserError for a
    mistake in the configuration or the data, before anything is recorded.
    """
    return recorded(config, _fill)


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


def _fill(record: Record, config: Config, store: Store, tracker: tracking.Tracker) -> None:
    """The run itself; every line leaves its part of the record."""
    seed_everything(config["seed"])
    device = build.device(config)
    task = build.data(config)
    method = build.method(config)
    record["provenance"] |= provenance.origin(config, device, method.backbone)
    before = measured(method, config, device, warmup=1, steps=1)
    record["cost"] |= before
    scratch = store.path(record, ".unfinished")
    trainer = build.trainer(config, task, partial(_note_epoch, record, tracker), scratch)
    begun = time.perf_counter()
    fitted = method.fit(trainer)
    _note_training(record, config, trainer, time.perf_counter() - begun)
    made_by = fitted.made_by or (record["factors"]["method"], config["method"])
    if fitted is not method:
        method.to("cpu")  # its memory is not part of the fitted network's peak
        record["cost"] |= {"search": before}
        record["cost"] |= measured(fitted, config, device, warmup=1, steps=1)
    record["cost"]["delta_bytes"] = delta.save(
        store.path(record, ".safetensors"),
        fitted,
        {
            "record": record["id"],
            "method": made_by[0],
            "network": _network(config, task, made_by[1]),
        },
    )
    splits = build.tests(config, task)  # opened here, and not before
    begun = time.perf_counter()
    scores = {name: trainer.evaluate(fitted, split) for name, split in splits.items()}
    _note_tests(record, trainer, scores, time.perf_counter() - begun)
    seen = {config["protocol"]["fit_on"]: trainer.fit} | dict(trainer.select) | splits
    record["provenance"]["splits"] = {name: split.fingerprint for name, split in seen.items()}
    shutil.rmtree(scratch, ignore_errors=True)


def _network(config: Config, task: Task, made_by: Mapping[str, Any]) -> dict[str, Any]:
    """What a delta says of the network it belongs to; no folder of this machine."""
    file = config["backbone"]["checkpoint"]
    return {
        "method": made_by,
        "backbone": dict(config["backbone"]) | {"checkpoint": file and Path(file).name},
        "input": config["input"],
        "classes": task.names or [str(number) for number in range(task.classes)],
    }


def measured(
    method: Method, config: Config, device: torch.device, *, warmup: int, steps: int
) -> dict[str, Any]:
    """The cost section of a method, before or after training."""
    return section(
        method,
        device=device,
        precision=Precision(config["train"]["precision"], device),
        settings=config["train"],
        size=config["input"]["size"],
        warmup=warmup,
        steps=steps,
    )


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


def _note_epoch(record: Record, tracker: tracking.Tracker, epoch: Epoch) -> None:
    for name, value in (("epoch", epoch.number), ("loss", epoch.loss), ("lr", epoch.lr)):
        record["curve"][name].append(value)
    tracker.epoch(epoch.number, epoch.loss, epoch.lr)


def _note_training(record: Record, config: Config, trainer: Trainer, seconds: float) -> None:
    history = trainer.history
    kept = trainer.best if trainer.keep_best else None
    record["selection"] = {
        "fit_on": config["protocol"]["fit_on"],
        "select_on": config["protocol"]["select_on"],
        "epoch": (kept or history[-1]).number,
        "scores": {
            name: {str(epoch.number): epoch.scores[name].top1 for epoch in history if epoch.scores}
            for name in trainer.select
        },
        "honest": config["protocol"]["select_on"] != "tests",
    }
    record["cost"] |= {
        "train_s": round(seconds, 3),
        "train_images_per_s": round(trainer.images_seen / seconds, 1),
        "images_seen": trainer.images_seen,
        "images_scored": trainer.images_scored,
    }
    record["notes"] = trainer.notes


def _note_tests(
    record: Record, trainer: Trainer, scores: Mapping[str, Score], seconds: float
) -> None:
    images = sum(score.total for score in scores.values())
    record["cost"] |= {
        "test_s": round(seconds, 3),
        "test_images_per_s": round(images / seconds, 1),
    }
    record["scores"] = {name: _score(score) for name, score in scores.items()}
    for name in trainer.select if not record["selection"]["honest"] else ():
        best = max((epoch.scores[name] for epoch in trainer.history if epoch.scores), key=_top1)
        record["scores"][f"{name}@best"] = _score(best)


def _score(score: Score) -> dict[str, float | int]:
    return {"top1": score.top1, "correct": score.correct, "total": score.total}


def _top1(score: Score) -> float:
    return score.top1


def ended(record: Record, status: str, reason: str | None) -> Record:
    """The record with its status and a reason of one line."""
    return record | {"status": status, "reason": " ".join(reason.split()) if reason else None}


JOB = Job(check=build.check, execute=run, closing=lambda config, store, asked: [])
