"""One run: one method on one backbone, task and seed."""

import logging
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from petlbench import delta
from petlbench.cost.section import section
from petlbench.data.task import Score, Task
from petlbench.method import Method
from petlbench.run import build, provenance, tracking
from petlbench.run.job import Job
from petlbench.run.lifecycle import recorded, seed_everything
from petlbench.run.record import Record, Store
from petlbench.train.precision import Precision
from petlbench.train.trainer import Epoch, Trainer

log = logging.getLogger("petlbench")
Config = Mapping[str, Any]


def run(config: Config) -> Record:
    """Build, fit, open the tests, measure, record.

    What goes wrong on the way is recorded with its status and reason. Raises UserError for a
    mistake in the configuration or the data, before anything is recorded.
    """
    return recorded(config, _fill)


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


JOB = Job(check=build.check, execute=run, closing=lambda config, store, asked: [])
