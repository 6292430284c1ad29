"""What a method is, and which blocks of a method stay constant."""

from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from petlbench.data.task import Score, Split
from petlbench.model.backbone import Backbone
from petlbench.model.families import Block


class Trainer(Protocol):
    """What `fit` may use; petlbench.train.trainer has the real one, and says more."""

    device: torch.device
    seed: int
    scratch: Path
    notes: dict[str, Any]

    def train(self, method: "Method") -> None:
        """One training phase of all parameters that require gradients."""

    def train_before(
        self,
        method: "Method",
        split: Split,
        *,
        epochs: int,
        lr: float,
        before_step: Callable[[int, int], None],
    ) -> None:
        """A phase ahead of it, for a search."""

    def examples(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W) and labels (B) of the training split, in a random order, once."""

    def halves(self) -> tuple[Split, Split]:
        """Two parts of the training split: to train on, and to score on, during a search."""

    def evaluate(self, method: nn.Module, split: Split) -> Score:
        """Top-1 accuracy on a split."""


class Method(nn.Module):
    """A frozen backbone and the few parameters that teach it a task.

    Override what the paper changes:
    __init__ -- the network (swap modules, unfreeze parameters)
    features -- the walk over the blocks (prompts, side networks)
    forward  -- the readout (VQT, LST)
    fit      -- the training plan (several phases, a search)

    `forward` is pure: it writes no state and nothing into z. `starts_as_pretrained` declares that
    the outputs before training are those of the pre-trained network; a method that starts
    elsewhere sets it to False and says why. `made_by` is set by a `fit` that returns another
    network than the configured one: name and values by which the registry makes it again.
    `unmergeable` is the reason why nothing of it can be folded into the backbone (merge.py).
    """

    starts_as_pretrained: bool = True
    made_by: tuple[str, Mapping[str, Any]] | None = None
    unmergeable: str = ""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone  # frozen, but for its head

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding to last block; z is (B, N, C) in a ViT, (B, H, W, C) in a Swin."""
        for stage in self.backbone.stages:  # one stage in a ViT, four in a Swin
            z = stage.enter(z)  # patch merging, or identity
            for block in stage.blocks:
                z = block(z)
        return z

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, K)"""
        z = self.features(self.backbone.embed(images))
        return self.backbone.head(self.backbone.pooled(z))  # type: ignore[no-any-return]

    def fit(self, trainer: Trainer) -> "Method":
        """Train; return the network to evaluate."""
        trainer.train(self)
        return self


def frozen_prefix(method: Method) -> int:
    """Leading blocks whose output depends on nothing trained, found by one forward pass.

    Their outputs are the same at every step, so they can be computed once (where drop path and
    augmentation leave the input alone) and shared by tasks.
    """
    constant: list[bool] = []

    def watched(block: Block) -> Block:
        def call(z: Tensor) -> Tensor:
            out = block(z)
            constant.append(not out.requires_grad)
            return out

        return call

    stages, training = method.backbone.stages, method.training
    original = [list(stage.blocks) for stage in stages]
    for stage in stages:
        stage.blocks[:] = map(watched, stage.blocks)
    try:
        with torch.enable_grad():
            method.eval()(method.backbone.example())
    finally:
        method.train(training)
        for stage, blocks in zip(stages, original, strict=True):
            stage.blocks[:] = blocks
    return len(list(takewhile(bool, constant)))
