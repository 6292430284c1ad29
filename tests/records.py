"""Records as a sweep leaves them, made by hand."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from petlbench.record import Record

GROUPS = {"digits": "natural", "glyphs": "natural", "land": "specialized"}


def record(method: str, task: str, top1: float | None, seed: int = 0, **changes: Any) -> Record:
    """A finished run of `top1` percent, or a failed one where it is None."""
    made: Record = {
        "schema": 1,
        "id": f"{method}{task}{seed}",
        "status": "failed" if top1 is None else "finished",
        "reason": "RuntimeError: it broke" if top1 is None else None,
        "protocol": "final",
        "factors": {
            "method": method,
            "backbone": "vit_mini",
            "task": f"mini/{task}",
            "draw": 0,
            "seed": seed,
        },
        "title": {"lora": "LoRA", "linear": "Linear", "dtl_plus": "DTL+"}.get(method, method),
        "task_title": task.capitalize(),
        "suite": "mini",
        "group": GROUPS[task],
        "config": {"train": {"epochs": 10, "lr": 0.01}, "method": {"rank": 8}},
        "scores": {} if top1 is None else {"test": {"top1": top1, "correct": 1, "total": 2000}},
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
        },
    }
    return made | changes


def keep(records: Iterable[Record], folder: Path) -> Path:
    """The records as files of a folder, whatever is odd about them."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, made in enumerate(records):
        (folder / f"{place}.json").write_text(json.dumps(made))
    return folder
