"""The optimiser, its parameter groups and the learning-rate schedule, as pure functions."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from petlbench.errors import UserError, unknown

Named = tuple[str, nn.Parameter]

# Which tensors escape weight decay: the published code bases differ.
NO_DECAY: Mapping[str, Callable[[str, nn.Parameter], bool]] = {
    "biases": lambda name, tensor: name.endswith(".bias"),  # heekhero/DTL
    "one_dimensional": lambda name, tensor: (
        tensor.ndim <= 1 or name.endswith(".bias")
    ),  # NOAH, SSF
    "none": lambda name, tensor: False,  # PETL-ViT, RepAdapter: all tensors decay
}
UPDATES = ("epoch", "step")
OPTIMIZERS = ("adamw", "sgd")


def groups(
    method: Iterable[Named],
    head: Iterable[Named],
    *,
    lr: float,
    head_lr: float,
    weight_decay: float,
    no_decay: str,
) -> list[dict[str, Any]]:
    """Up to four parameter groups: method or head, decayed or not, each with its `peak_lr`."""
    if str(no_decay) not in NO_DECAY:
        raise unknown("train.no_decay", no_decay, NO_DECAY)
    for key, value in (("lr", lr), ("head_lr", head_lr), ("weight_decay", weight_decay)):
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise UserError(f"train.{key} is {value}; it must be a number of at least 0")
    spared = NO_DECAY[no_decay]
    parts = []
    for named, peak_lr in ((list(method), lr), (list(head), head_lr)):
        for decay in (True, False):
            tensors = [tensor for name, tensor in named if spared(name, tensor) != decay]
            if tensors:
                decay_rate = weight_decay if decay else 0.0
                parts.append({"params": tensors, "weight_decay": decay_rate, "peak_lr": peak_lr})
    return parts


def create(
    parts: Iterable[Mapping[str, Any]],
    *,
    optimizer: str,
    lr: float,
    betas: Sequence[float],
    momentum: float,
) -> torch.optim.Optimizer:
    """AdamW with `betas`, or SGD with `momentum`, over parameter groups."""
    groups = [dict(part) for part in parts]
    if optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    raise unknown("train.optimizer", optimizer, OPTIMIZERS)


def cosine(
    time: float,
    *,
    peak_lr: float,
    warmup_epochs: float,
    warmup_lr: float,
    min_lr: float,
    cosine_epochs: float,
    cosine_from: float,
) -> float:
    """Learning rate at `time` (epochs, from 0): timm's CosineLRScheduler with warmup_prefix=False.

    With `cosine_from` 0 the cosine is not shifted by the warm-up: after 10 of 100 epochs it sets
    in at 0.9755 of the peak. Otherwise it begins at that epoch, and the rate is at its peak
    between warm-up and cosine. After `cosine_epochs` the rate stays at `min_lr`.
    """
    if time < warmup_epochs:
        return warmup_lr + time * (peak_lr - warmup_lr) / warmup_epochs
    if time < cosine_epochs:
        angle = math.pi * max(time - cosine_from, 0) / (cosine_epochs - cosine_from)
        return min_lr + (peak_lr - min_lr) * (1 + math.cos(angle)) / 2
    return min_lr


def schedule_time(epoch: int, progress: float, *, lag_epochs: int, update: str) -> float:
    """Time to evaluate the schedule at, for the 1-based `epoch` and its `progress` in [0, 1).

    update=epoch holds the value for an epoch; lag_epochs=1 is the lag of code that steps its
    scheduler after the epoch with a 0-based index (PETL-ViT, NOAH): epoch e uses max(e - 2, 0).
    """
    if update not in UPDATES:
        raise unknown("train.schedule.update", update, UPDATES)
    return max(epoch - 1 - lag_epochs + (progress if update == "step" else 0.0), 0.0)
