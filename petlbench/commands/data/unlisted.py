"""`verify` for a task without lists of files: its splits are opened."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from petlbench.commands.data.figures import labels, missing_classes
from petlbench.data.task import Split, Task
from petlbench.errors import UserError

Report = dict[str, Any]


def verify(task: Task) -> Report:
    """The report on a task; a warning of its reader is a defect."""
    report: Report = {"splits": {}, "defects": [], "broken": [], "notes": [], "shared": []}
    with _warnings() as warnings:
        for name in task.splits:
            try:
                split = task.open(name)
            except UserError as error:
                report["defects"].append(str(error))
                continue
            defects = list(_defects(name, split, task.classes))
            report["defects"] += defects
            if not defects:
                report["splits"][name] = _figures(split, task.classes)
                report["notes"] += missing_classes(name, split.labels.tolist(), task)
    report["defects"] += warnings
    return report


def _figures(split: Split, classes: int) -> Report:
    return {
        "images": len(split),
        "labels": labels(split.labels.tolist(), classes),
        "fingerprint": split.fingerprint["sha256"],
    }


def _defects(name: str, split: Split, classes: int) -> Iterator[str]:
    """What a reader must not return."""
    import torch  # takes seconds, and a mistake in the names of tasks needs none

    shape = tuple(split.images.shape)
    if split.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
        yield f"{name} holds {split.images.dtype} images of shape {shape}, not uint8 (N, 3, H, W)"
    elif not len(split):
        # before the labels: an empty tensor has no minimum
        yield f"{name} holds no image"
    elif shape[0] != len(split):
        yield f"{name} holds {shape[0]} images and {len(split)} labels"
    elif not 0 <= int(split.labels.min()) <= int(split.labels.max()) < classes:
        lowest, highest = int(split.labels.min()), int(split.labels.max())
        yield (
            f"{name} has labels {lowest} to {highest}; the task has {classes} classes, labels 0 "
            f"to {classes - 1}"
        )


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect the warnings that petlbench logs instead of printing them."""
    messages: list[str] = []
    log, handler = logging.getLogger("petlbench"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    propagate, log.propagate = log.propagate, False  # else it is printed too
    log.addHandler(handler)
    try:
        yield messages
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
