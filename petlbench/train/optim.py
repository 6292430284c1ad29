"""The optimiser, its parameter groups and the learning-rate schedule."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from petlbench.config.nodes import Schedule, Train
from petlbench.delta import trained
from petlbench.method import Method, ParameterGroup

# Which tensors escape weight decay: the published code bases differ.
NO_DECAY: Mapping[str, Callable[[str, nn.Parameter], bool]] = {
    "biases": lambda name, tensor: name.endswith(".bias"),  # heekhero/DTL
    "one_dimensional": lambda name, tensor: (
        tensor.ndim <= 1 or name.endswith(".bias")
    ),  # NOAH, SSF
    "none": lambda name, tensor: False,  # PETL-ViT, RepAdapter: all tensors decay
}


def build_optimiser(method: Method, train: Train) -> torch.optim.Optimizer:
    """AdamW or SGD over the trained tensors; each group carries its `peak_lr`."""
    groups = parameter_groups(method, train)
    if train.optimizer == "adamw":
        betas = (train.betas[0], train.betas[1])
        return torch.optim.AdamW(groups, lr=train.lr, betas=betas, fused=True)
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum)


def parameter_groups(method: Method, train: Train) -> list[dict[str, Any]]:
    """Trained tensors of method and head, decayed or not, then the method's own groups.

    Each is {params, weight_decay, peak_lr}; groups without tensors are left out.
    """
    head = {id(tensor) for tensor in method.backbone.head.parameters()}
    named = trained(method)
    groups: list[dict[str, Any]] = []
    own_groups: list[dict[str, Any]] = []
    for own in method.parameter_groups():
        members = {id(tensor) for tensor in own.parameters}
        part = {name: named.pop(name) for name in list(named) if id(named[name]) in members}
        own_groups += _by_decay(part, train, own)
    for in_head, lr in ((False, train.lr), (True, train.head_lr)):
        part = {name: t for name, t in named.items() if (id(t) in head) == in_head}
        groups += _by_decay(part, train, ParameterGroup((), lr=lr))
    return groups + own_groups  # the first group's rate is the one that a record's curve shows


def _by_decay(
    named: Mapping[str, nn.Parameter], train: Train, group: ParameterGroup
) -> Iterable[dict[str, Any]]:
    """A group in two: tensors that decay, and those that do not."""
    exempt = NO_DECAY[train.no_decay]
    decay = train.weight_decay if group.weight_decay is None else group.weight_decay
    peak_lr = (train.lr if group.lr is None else group.lr) * group.lr_scale
    for decays in (True, False):
        tensors = [tensor for name, tensor in named.items() if exempt(name, tensor) != decays]
        if tensors:
            yield {
                "params": tensors,
                "weight_decay": decay if decays else 0.0,
                "peak_lr": peak_lr,
            }


def set_rates(optimiser: torch.optim.Optimizer, time: float, schedule: Schedule) -> None:
    """Set every group's learning rate to the schedule's value at `time` (epochs)."""
    for group in optimiser.param_groups:
        group["lr"] = cosine(time, peak_lr=group["peak_lr"], schedule=schedule)


def cosine(time: float, *, peak_lr: float, schedule: Schedule) -> float:
    """Learning rate at `time` (epochs, from 0): timm's CosineLRScheduler with warmup_prefix=False.

    With `cosine_from` 0 the warm-up does not shift the cosine: after 10 of 100 epochs it starts
    at 0.9755 of the peak. Otherwise it starts at that epoch, and the rate stays at its peak
    between warm-up and cosine. After `cosine_epochs` the rate stays at `min_lr`.
    """
    s = schedule
    if time < s.warmup_epochs:
        return s.warmup_lr + time * (peak_lr - s.warmup_lr) / s.warmup_epochs
    if time < s.cosine_epochs:
        angle = math.pi * max(time - s.cosine_from, 0) / (s.cosine_epochs - s.cosine_from)
        return s.min_lr + (peak_lr - s.min_lr) * (1 + math.cos(angle)) / 2
    return s.min_lr


def schedule_time(epoch: int, progress: float, schedule: Schedule) -> float:
    """Time to evaluate the schedule at, for the 1-based `epoch` and its `progress` in [0, 1).

    update=epoch holds the value for an epoch. lag_epochs=1 is the lag of code that steps its
    scheduler after the epoch with a 0-based index (PETL-ViT, NOAH): epoch e uses max(e - 2, 0).
    """
    within = progress if schedule.update == "step" else 0.0
    return max(epoch - 1 - schedule.lag_epochs + within, 0.0)
