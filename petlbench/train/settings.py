"""The values of `train.*`, checked before anything is built."""

from collections.abc import Mapping
from typing import Any

from petlbench.checks import fraction, whole
from petlbench.errors import UserError, unknown
from petlbench.train.objective import check_objective
from petlbench.train.optim import OPTIMIZERS, groups

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
    fraction("train.momentum", settings["momentum"])
    check_objective(settings)
    check_schedule(settings["schedule"])


def check_schedule(schedule: Mapping[str, Any]) -> None:
    """Refuse a cosine without an extent."""
    start, end = schedule["cosine_from"], schedule["cosine_epochs"]
    if not 0 <= start < end:
        raise UserError(
            f"train.schedule.cosine_from is {start}; it must be at least 0 and below "
            f"train.schedule.cosine_epochs, {end}"
        )
