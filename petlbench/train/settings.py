"""The values of `train.*`, checked before anything is built."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from petlbench.checks import fraction, whole
from petlbench.errors import UserError, unknown
from petlbench.train.objective import check_objective
from petlbench.train.optim import OPTIMIZERS, UPDATES, groups
from petlbench.train.precision import PRECISIONS

NEEDED = (
    "lr",
    "head_lr",
    "weight_decay",
    "no_decay",
    "betas",
    "epochs",
    "batch_size",
    "drop_last",
    "precision",
    "optimizer",
    "momentum",
    "label_smoothing",
    "mixup",
    "cutmix",
    "schedule",
)


def check(settings: Mapping[str, Any]) -> None:
    """Refuse values with which no data could be trained on."""
    for key in NEEDED:
        if key not in settings:
            raise UserError(f"train.{key} is missing; set train.{key}=VALUE")
    for key in ("epochs", "batch_size"):
        whole(f"train.{key}", settings[key], low=1)
    keys = ("lr", "head_lr", "weight_decay", "no_decay")
    groups([], [], **{key: settings[key] for key in keys})
    if settings["optimizer"] not in OPTIMIZERS:
        raise unknown("train.optimizer", settings["optimizer"], OPTIMIZERS)
    if str(settings["precision"]) not in PRECISIONS:
        raise unknown("train.precision", settings["precision"], PRECISIONS)
    fraction("train.momentum", settings["momentum"])
    betas = settings["betas"]
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise UserError(f"train.betas is {betas}; it must be a list of two numbers")
    for beta in betas:
        fraction("one of train.betas", beta)
    check_objective(settings)
    check_schedule(settings["schedule"])


def check_schedule(schedule: Mapping[str, Any]) -> None:
    """Refuse what is no schedule, and a cosine without an extent."""
    for key in ("warmup_epochs", "cosine_from", "cosine_epochs", "lag_epochs"):
        whole(f"train.schedule.{key}", schedule[key], low=0)
    for key in ("warmup_lr", "min_lr"):
        if not isinstance(schedule[key], int | float) or not 0 <= schedule[key] < math.inf:
            raise UserError(
                f"train.schedule.{key} is {schedule[key]}; it must be a number of at least 0"
            )
    if schedule["update"] not in UPDATES:
        raise unknown("train.schedule.update", schedule["update"], UPDATES)
    start, end = schedule["cosine_from"], schedule["cosine_epochs"]
    if not 0 <= start < end:
        raise UserError(
            f"train.schedule.cosine_from is {start}; it must be at least 0 and below "
            f"train.schedule.cosine_epochs, {end}"
        )
