"""One step of training: the optimiser of a method, its rates, and an update."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from petlbench.delta import trained
from petlbench.layers import draw_keep_masks
from petlbench.method import Method
from petlbench.train.objective import PLAIN, Objective
from petlbench.train.optim import cosine, create, groups
from petlbench.train.precision import Precision


def training_step(
    method: nn.Module,
    optimiser: torch.optim.Optimizer,
    precision: Precision,
    images: Tensor,
    labels: Tensor,
    masks: torch.Generator | None = None,
    objective: Objective = PLAIN,
) -> Tensor:
    """One update with the loss of a batch, which is returned (detached).

    masks: the random state of drop path, torch's own if none is given.
    """
    optimiser.zero_grad(set_to_none=True)  # ahead of forward, whose end is the peak of memory
    images, targets = objective.mixed(images, labels)
    draw_keep_masks(method, len(images), masks)
    with precision.autocast():
        loss = objective.loss(method(images).float(), targets)
    precision.step(loss, optimiser)
    return loss.detach()


def build_optimiser(method: Method, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimiser of the trainable tensors, grouped by head and by weight decay."""
    head_tensors = {id(tensor) for tensor in method.backbone.head.parameters()}
    named = trained(method).items()
    parts = groups(
        [(name, tensor) for name, tensor in named if id(tensor) not in head_tensors],
        [(name, tensor) for name, tensor in named if id(tensor) in head_tensors],
        lr=settings["lr"],
        head_lr=settings["head_lr"],
        weight_decay=settings["weight_decay"],
        no_decay=settings["no_decay"],
    )
    return create(
        parts, **{key: settings[key] for key in ("optimizer", "lr", "betas", "momentum")}
    )


def set_rates(optimiser: torch.optim.Optimizer, time: float, schedule: Mapping[str, Any]) -> None:
    """Set every group's learning rate to the schedule's value at `time` (epochs)."""
    for group in optimiser.param_groups:
        group["lr"] = cosine(
            time,
            peak_lr=group["peak_lr"],
            warmup_epochs=schedule["warmup_epochs"],
            warmup_lr=schedule["warmup_lr"],
            min_lr=schedule["min_lr"],
            cosine_epochs=schedule["cosine_epochs"],
            cosine_from=schedule["cosine_from"],
        )
