"""One training step."""

import torch
from torch import Tensor, nn

from petlbench.method import Method
from petlbench.model.drop_path import keep_masks
from petlbench.train.objective import PLAIN, Objective
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
    """One update on images (B, 3, H, W) and labels (B,); returns the loss, a detached scalar.

    masks: the random state of drop path; torch's own if None.
    """
    optimiser.zero_grad(set_to_none=True)  # before forward, whose end is the peak of memory
    images, targets = objective.mixed(images, labels)
    with keep_masks(method, len(images), masks):
        with precision.autocast():
            logits = method(images)
            loss = objective.loss(logits.float(), targets)  # in fp32 on every device
            if isinstance(method, Method) and (
                (term := method.extra_loss(images, logits, targets)) is not None
            ):
                loss = loss + term
        precision.step(loss, optimiser)
    return loss.detach()
