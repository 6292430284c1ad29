"""Records as a sweep writes them, with values chosen by hand."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petlbench.data import predictions
from petlbench.data.predictions import PredictionFile, Predictions
from petlbench.run.record import PREDICTIONS, Record, beside

GROUPS = {"digits": "natural", "glyphs": "natural", "land": "specialized"}
CLASSES = ("cat", "dog", "owl")
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]  # of own images
PEAK = {"weights": 300.0, "gradients": 1.0, "optimiser": 2.0, "activations": 700.0}


def record(method: str, task: str, top1: float | None, seed: int = 0, **changes: Any) -> Record:
    """A finished run of `top1` percent, or a failed one where it is None.

    task: one of mini, or the full name of another with its slash.
    """
    run: Record = {
        "schema": 1,
        "id": f"{method}{task}{seed}",
        "status": "failed" if top1 is None else "finished",
        "reason": "RuntimeError: it broke" if top1 is None else None,
        "protocol": "final",
        "factors": {
            "method": method,
            "backbone": "vit_mini",
            "task": task if "/" in task else f"mini/{task}",
            "draw": 0,
            "seed": seed,
        },
        "title": {"lora": "LoRA", "linear": "Linear", "dtl_plus": "DTL+"}.get(method, method),
        "task_title": task.partition("/")[2] or task.capitalize(),
        "suite": task.partition("/")[0] if "/" in task else "mini",
        "group": GROUPS.get(task, "some"),
        "config": {"train": {"epochs": 10, "lr": 0.01}, "method": {"rank": 8}},
        "scores": {} if top1 is None else {"test": score(top1)},
        "selection": {"honest": True},
        "curve": {},
        "cost": {
            "parameters": {"method": 36864, "head": 970},
            "saved_mb": 62.5,
            "peak_mib": None,
            "train_s": 10.0,
            "train_images_per_s": 200.0,
            "test_images_per_s": 900.0,
            "delta_bytes": 1000,
        },
        "provenance": {
            "splits": {"test": {"sha256": f"data of {task}"}},
            "checkpoint": {"tag": "vit_mini", "sha256": "0c0e49b3" * 8},
            "versions": {"petlbench": "0.1.0", "torch": "2.14.1", "timm": "1.0.31"},
            "device": "a CPU, 2 threads",
            "seconds": 12.0,
        },
    }
    return run | changes


def with_predictions(
    method: str,
    predicted: Sequence[int],
    folder: Path,
    labels: Sequence[int] = LABELS,
    seed: int = 0,
    task: str = "folder/pets",
    with_val: bool = False,
    files: Sequence[str] | None = None,
    **changes: Any,
) -> Record:
    """A finished run on own images, written with its predictions; 0.9 is its confidence."""
    right = int(np.equal(predicted, labels).sum())
    run = record(method, task, 100 * right / len(labels), seed, **changes)
    run["id"] = f"{method}{seed}"
    run["scores"]["test"] |= {"correct": right, "total": len(labels)}
    classes = len(CLASSES)
    values = np.full((len(labels), classes), 0.1 / (classes - 1), np.float32)
    values[np.arange(len(labels)), predicted] = 0.9
    names = tuple(files or (f"{CLASSES[k]}/{n}.png" for n, k in enumerate(labels)))
    split = Predictions(np.log(values), np.array(predicted), np.array(labels), names)
    splits = {"val": split, "test": split} if with_val else {"test": split}
    file = folder / task / f"{run['id']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(run))
    predictions.save(beside(file, PREDICTIONS), PredictionFile(run["id"], CLASSES, splits))
    return run | {"file": str(file)}


def score(top1: float) -> dict[str, float | int]:
    """A score on so many images that any percentage is possible."""
    return {"top1": top1, "correct": round(top1 * 10**7), "total": 10**9}


def probe(method: str, images_per_s: float, **changes: Any) -> Record:
    """A record of protocol `probe`: costs without scores."""
    run = record(method, "probe", 0.0, protocol="probe", suite="probe", group="probe", scores={})
    run["factors"] |= {"task": "probe", "backbone": "vit_b16"}
    run["provenance"] |= {"precision": "fp16", "attention": "fused"}
    run["cost"] = {
        "parameters": {"method": 36864, "head": 970},
        "units": 12,
        "delta_bytes": 160000,
        "saved_mb": 772.0,
        "gflops": {"forward": 35.1, "step": 70.2},
        "peak_mib": PEAK | {"workspace": 50.0, "allocated": 1053.0, "reserved": 1200.0},
        "train_images_per_s": 500.0,
        "inference": [
            {"batch": batch, "compiled": False, "merged": merged, "spread": 3.0, "repeats": 5}
            | {"images_per_s": images_per_s * batch * (2 if merged else 1)}
            for batch in (1, 4, 16)
            for merged in ([False, True] if method == "lora" else [False])
        ],
        "multitask": {
            "tasks": 19,
            "shared_blocks": 7,
            "blocks": 12,
            "gflops": {"shared": 298.0, "batch": 667.0},
            "saved_percent": 55.3,
            "seconds": {"shared": 0.01, "batch": 0.02, "sequential": 0.1},
        },
    }
    return run | changes


def keep(records: Iterable[Record], folder: Path) -> Path:
    """Write records, also broken ones, as files of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, run in enumerate(records):
        (folder / f"{place}.json").write_text(json.dumps(run))
    return folder
