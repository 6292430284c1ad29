"""PVeRA: Probabilistic Vector-Based Random Matrix Adaptation, https://arxiv.org/abs/2512.07703, as
PEFT has it, with the loss term of the authors' code, which PEFT lacks
(leofillioux/pvera @ 25a3baa).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from petlbench.checks import at_least
from petlbench.errors import Unsupported
from petlbench.methods.peft_tuner import PEFTTuner
from petlbench.model.backbone import Backbone

DRAW = "_reparametrize"  # PEFT's function of a layer from mean and log-variance to a sample


class PVeRA(PEFTTuner):
    """VeRA whose codes are drawn in training: z ~ N(mu, sigma^2), both linear in the input.

    kl_weight: of `extra_loss`. Raises Unsupported for a PEFT whose layers draw otherwise.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        tuner: str,
        targets: Sequence[str],
        kl_weight: float,
        **values: Any,
    ) -> None:
        self._weight = at_least("method.kl_weight", kl_weight, 0)
        self._divergences = _OfStep()
        self._is_noting = False
        super().__init__(backbone, tuner=tuner, targets=targets, **values)
        layers = self.layers()
        if not all(hasattr(layer, DRAW) for layer in layers):
            raise Unsupported(f"PEFT's tuner {tuner} has no {DRAW}, which the loss term reads")
        blocks: list[Any] = [block for stage in backbone.stages for block in stage.blocks]
        adapted = sum(any(layer in block.modules() for layer in layers) for block in blocks)
        self._sites = len(layers) / max(adapted, 1)  # layers of a block
        for number, layer in enumerate(layers):
            setattr(layer, DRAW, partial(self._drawn, layer, number))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, K); notes the divergences of the codes in training"""
        # Not in a block that backward computes again, whose tensors would then live on.
        self._divergences.clear()
        self._is_noting = True
        logits = super().forward(images)
        self._is_noting = False
        return logits

    def extra_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted divergence of the codes from N(0, 1), a scalar.

        KL = (mu^2 + sigma^2 - 1 - log sigma^2) / 2 as a mean over codes, tokens and images, and
        over the layers of a block, summed over the blocks.
        """
        total = torch.stack([*self._divergences.values()]).sum()
        return self._weight * total / self._sites

    def _drawn(self, layer: Any, number: int, mean: Tensor, variance: Tensor, name: str) -> Tensor:
        """PEFT's sample (..., r) of a layer, whose divergence is noted; variance: its log."""
        if layer.training:
            mu, log = mean.float(), variance.float()
            # always computed: backward expects the tensors of the first time
            divergence = (mu.square() + log.exp() - 1 - log).mean() / 2
            if self._is_noting:
                self._divergences[number] = divergence
        return getattr(type(layer), DRAW)(layer, mean, variance, name)  # type: ignore[no-any-return]


class _OfStep(dict[int, Tensor]):
    """What the last forward pass has left for the loss. Copies and pickles are empty."""

    def __reduce__(self) -> tuple[type["_OfStep"], tuple[()]]:
        return _OfStep, ()
