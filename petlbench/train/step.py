"""One training step."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from petlbench.method import Method
from petlbench.model.drop_path import keep_masks
from petlbench.train.forward import Forward
from petlbench.train.objective import PLAIN, Objective
from petlbench.train.precision import Precision

Batch = tuple[Tensor, Tensor]  # images (B, 3, H, W) and labels (B,)


def training_step(
    method: nn.Module,
    optimiser: torch.optim.Optimizer,
    precision: Precision,
    images: Tensor,
    labels: Tensor,
    masks: torch.Generator | None = None,
    objective: Objective = PLAIN,
    forward: Forward | None = None,
) -> Tensor:
    """One update on images (B, 3, H, W) and labels (B,); returns the loss, a detached scalar.

    masks: the random state of drop path; torch's own if None. forward: the forward pass of the
    method, if it is called in another way.
    """
    batches, total = [(images, labels)], len(labels)
    return accumulated_step(
        method, optimiser, precision, batches, total, masks, objective, forward=forward
    )


def accumulated_step(
    method: nn.Module,
    optimiser: torch.optim.Optimizer,
    precision: Precision,
    batches: Iterable[Batch],
    total: int,
    masks: torch.Generator | None = None,
    objective: Objective = PLAIN,
    clip_grad: float | None = None,
    forward: Forward | None = None,
) -> Tensor:
    """One update on batches of `total` images together; returns the mean loss, a detached scalar.

    The gradient is that of the mean over all images, as in one large batch.
    """
    optimiser.zero_grad(set_to_none=True)  # before forward, whose end is the peak of memory
    losses = []
    for images, labels in batches:
        with keep_masks(method, len(images), masks):
            loss = _loss(method, forward or method, precision, images, labels, objective)
            loss = loss * (len(labels) / total)
            precision.backward(loss)
        losses.append(loss.detach())
    precision.step(optimiser, clip_grad)
    return torch.stack(losses).sum()


def _loss(
    method: nn.Module,
    forward: Forward,
    precision: Precision,
    images: Tensor,
    labels: Tensor,
    objective: Objective,
) -> Tensor:
    images, targets = objective.mixed(images, labels)
    with precision.autocast():
        logits = forward(images)
        loss = objective.loss(logits.float(), targets)  # in fp32 on every device
        if isinstance(method, Method) and (
            (term := method.extra_loss(images, logits, targets)) is not None
        ):
            loss = loss + term
    return loss
