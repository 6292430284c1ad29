"""A training run: one method on one backbone, task and seed."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petlbench import delta
from petlbench.config.schema import Config
from petlbench.cost.section import Conditions, section
from petlbench.data.predictions import PredictionFile, Predictions, save, wanted
from petlbench.data.task import Score, Split, Task
from petlbench.merge import for_inference
from petlbench.method import Fitted, Method
from petlbench.run import build, costs, logs, provenance, splits
from petlbench.run.check import plain
from petlbench.run.job import Job
from petlbench.run.lifecycle import Run, recorded, seed_everything
from petlbench.run.record import DELTA, PREDICTIONS, UNFINISHED, Record
from petlbench.train.phase import Epoch
from petlbench.train.precision import Precision
from petlbench.train.trainer import TrainingLoop, require_finite
from petlbench.train.unfinished import Spent, Unfinished


def run(config: Config) -> Record:
    """Build, train, open the tests, measure, record.

    What goes wrong is recorded with its status and reason. Raises UserError for a mistake in the
    configuration or the data, before anything is recorded.
    """
    return recorded(config, _fill)


def _fill(run: Run) -> None:
    """The run itself; every line leaves its part of the record."""
    config, record = run.config, run.record
    # first: the head and the tensors of the method are drawn from this state
    seed_everything(config.seed)
    device = build.device(config.device)
    task = splits.decoded(config)
    method = build.method(config)
    record["provenance"] |= provenance.of_run(config, device, method.backbone)
    conditions = measuring(config, device)
    # on noise, while no image of the task is on the device yet
    before = costs.counted_once(config, method, conditions, record["notes"])
    record["cost"] |= before
    unfinished = _unfinished(run, device, type(method))
    trainer = build.trainer(config, task, partial(_note_epoch, run), unfinished)
    unfinished.spent.seconds = 0.0  # opening the splits was no training
    try:
        fitted = method.fit(trainer)
    finally:
        if unfinished.resumed:
            record["notes"]["resumed"] = ", ".join(unfinished.resumed)
    require_finite(fitted.network)
    _note_training(run, trainer, unfinished.spent)
    record["notes"] |= plain(fitted.notes)  # a value that is no JSON must not cost the run
    if fitted.network is not method:
        method.to("cpu")  # its memory is not part of the fitted network's peak
        record["cost"] |= {"search": before}
        record["cost"] |= section(fitted.network, conditions, record["notes"])
    tests = splits.tests(config, task)  # opened here, and not before
    started = time.perf_counter()
    images = sum(map(len, tests.values()))
    tested = _tested(fitted.network, images, record["notes"])
    predictions: dict[str, Predictions] = {}
    if wanted(config.results.predictions, task.classes * images):
        predictions = {name: trainer.predictions(tested, split) for name, split in tests.items()}
        scores = {name: split.score for name, split in predictions.items()}
    else:
        scores = {name: trainer.evaluate(tested, split) for name, split in tests.items()}
    _note_tests(record, trainer, scores, time.perf_counter() - started)
    record["provenance"]["splits"] = _fingerprints(config, trainer, tests)
    if predictions:
        # what a temperature is fitted on; the tests are done, so that it can choose nothing else
        predictions = _selected(trainer, tested) | predictions
    # last, so that a run that fails leaves no file without a finished record
    try:
        _store_predictions(run, task, predictions)
        _store_delta(run, task, trainer.fit, fitted)
    except BaseException:
        run.store.discard(record)
        raise


def _selected(trainer: TrainingLoop, tested: nn.Module) -> dict[str, Predictions]:
    return {name: trainer.predictions(tested, split) for name, split in trainer.select.items()}


def _tested(method: Method, images: int, notes: dict[str, Any]) -> nn.Module:
    """What is tested on so many images; a note says if it is the merged network."""
    network = for_inference(method, images)
    if network is not method:
        notes["tested"] = "merged network"
    return network


def measuring(config: Config, device: torch.device) -> Conditions:
    """Under which the costs of a run are measured."""
    precision = Precision(config.train.precision, device)
    return Conditions(device, precision, config.train, config.input.size)


def _unfinished(run: Run, device: torch.device, method: type) -> Unfinished:
    """What this run saves, and what its earlier start with the same software has saved."""
    about = run.record["provenance"]
    stamp = {"id": run.record["id"], "device": device.type, "precision": about["precision"]}
    stamp["code"] = provenance.code(method)
    folder = run.store.path(run.record, UNFINISHED)
    return Unfinished(folder, stamp | about["versions"], device, about["device"])


def _store_predictions(run: Run, task: Task, predictions: dict[str, Predictions]) -> None:
    file = run.store.path(run.record, PREDICTIONS)
    if predictions:
        save(file, PredictionFile(run.record["id"], task.names, predictions))
    else:
        file.unlink(missing_ok=True)  # those of an earlier run are not of these scores


def _store_delta(run: Run, task: Task, fit: Split, fitted: Fitted) -> None:
    config, record = run.config, run.record
    # a search may return another method than the configured one
    name, made = fitted.made_by or (None, config.method.plain())
    file = run.store.path(record, DELTA)
    network = _network(config, task, made) | _range(fit)
    record["cost"]["delta_bytes"] = delta.save(
        file,
        fitted.network,
        {
            "record": record["id"],
            "method": name or record["factors"]["method"],
            "network": network,
        },
    )


def _network(config: Config, task: Task, method: Mapping[str, Any]) -> dict[str, Any]:
    """What a delta says of the network that it belongs to; no folder of this machine."""
    file = config.backbone.checkpoint
    return {
        "method": method,
        "backbone": asdict(config.backbone) | {"checkpoint": file and Path(file).name},
        "input": asdict(config.input),
        "classes": task.names or [str(number) for number in range(task.classes)],
    }


def _range(fit: Split) -> dict[str, object]:
    """What becomes white in grey images of 16 bits, for the images of `predict`."""
    about = fit.fingerprint
    return {"grey_max": about["grey_max"]} if "grey_max" in about else {}


def _fingerprints(
    config: Config, trainer: TrainingLoop, tests: Mapping[str, Split]
) -> dict[str, object]:
    """Of all splits that the run opened."""
    splits = {str(config.protocol.fit_on): trainer.fit} | dict(trainer.select) | dict(tests)
    return {name: split.fingerprint for name, split in splits.items()}


def _note_epoch(run: Run, epoch: Epoch) -> None:
    for name, value in (("epoch", epoch.number), ("loss", epoch.loss), ("lr", epoch.lr)):
        run.record["curve"][name].append(value)
    scores = [f"{name} {score.top1:.1f} %" for name, score in epoch.scores.items()]
    line = " ".join([f"loss {epoch.loss:.4f} lr {epoch.lr:.3g}", *scores])
    logs.epochs.info("epoch %d/%d %s", epoch.number, run.config.train.epochs, line)
    run.tracker.epoch(epoch.number, epoch.loss, epoch.lr)


def _note_training(run: Run, trainer: TrainingLoop, spent: Spent) -> None:
    history, protocol = trainer.history, run.config.protocol
    # without a choice the last epoch is the tested one; some methods train without epochs
    last = history[-1] if history else None
    tested = (trainer.best if trainer.keep_best else None) or last
    run.record["selection"] = {
        "fit_on": protocol.fit_on,
        "select_on": protocol.select_on,
        "epoch": tested.number if tested else None,
        "scores": {
            name: {str(epoch.number): epoch.scores[name].top1 for epoch in history if epoch.scores}
            for name in trainer.select
        },
        "honest": protocol.select_on != "tests",
    }
    seconds = spent.seconds
    run.record["cost"] |= {
        "train_s": round(seconds, 3),
        "scored_s": round(spent.scored_s, 3),
        "train_images_per_s": round(spent.images_seen / (seconds - spent.scored_s), 1),
        "images_seen": spent.images_seen,
        "images_scored": spent.images_scored,
    }
    if trainer.prefix_cache is not None:
        run.record["notes"]["prefix_cache"] = trainer.prefix_cache
    if trainer.is_short:
        run.record["notes"]["last_block"] = "class token only"
    if spent.devices[1:]:
        timings = ("train_s", "scored_s", "train_images_per_s")
        run.record["cost"] |= dict.fromkeys(timings)
        note = f"a resumed run, on several devices: {'; '.join(spent.devices)}"
        run.record["notes"] |= dict.fromkeys(timings, note)


def _note_tests(
    record: Record, trainer: TrainingLoop, scores: Mapping[str, Score], seconds: float
) -> None:
    images = sum(score.total for score in scores.values())
    record["cost"] |= {
        "test_s": round(seconds, 3),
        "test_images_per_s": round(images / seconds, 1),
    }
    record["scores"] = {name: _score(score) for name, score in scores.items()}
    chosen = trainer.history and not record["selection"]["honest"]
    for name in trainer.select if chosen else ():
        best = max((epoch.scores[name] for epoch in trainer.history if epoch.scores), key=_top1)
        record["scores"][f"{name}@best"] = _score(best)


def _score(score: Score) -> dict[str, float | int]:
    return {"top1": score.top1, "correct": score.correct, "total": score.total}


def _top1(score: Score) -> float:
    return score.top1


JOB = Job(check=build.check, execute=run, summary=lambda config, store, identities: [])
