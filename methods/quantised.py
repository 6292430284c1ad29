"""Linear maps with a few bits per weight, for Bi-LoRA and Bi-AdaptFormer (binary.py).

Revisiting the Parameter Efficiency of Adapters from the Perspective of Precision Redundancy,
https://arxiv.org/abs/2307.16867.
"""

from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import whole
from petlbench.errors import UserError
from petlbench.model.backbone import Backbone
from petlbench.swap import swap_these

ROUNDS = 500  # of the fixed-point iteration; as in JieShibo/PETL-ViT @ 026e4f12
MOST_BITS = 8


@cache  # the 48 maps of a ViT share one computation of 50 ms; callers copy
def levels(bits: int) -> Tensor:
    """The 2^bits values that a standard normal is rounded to, (2^bits) float32, ascending.

    A fixed point: each level is the median of its cell, each threshold the midpoint between two
    levels. One bit: the quartiles, -0.6745 and 0.6745. Start and number of rounds are those of the
    authors' code (binary_adapter/utils.py). They reach the fixed point up to 4 bits; at 8 bits
    levels next to zero are still equal.
    """
    values = torch.zeros(2**bits, dtype=torch.float64, device="cpu")
    for _ in range(ROUNDS):
        below = torch.special.ndtr((values[:-1] + values[1:]) / 2)
        below = torch.cat([below.new_zeros(1), below, below.new_ones(1)])
        values = torch.special.ndtri((below[:-1] + below[1:]) / 2)
    rounded: Tensor = values.float()
    return rounded


class Quantised(nn.Linear):
    """A bias-free linear map with its weight rounded to 2^bits levels of its own mean and spread.

    w^ = (w - mean) / (std + 1e-5), rounded to the nearest level, times std, plus mean. The
    gradient treats the rounding as the identity; mean and std stay in the graph.
    """

    def __init__(self, width: int, out: int, bits: int) -> None:
        super().__init__(width, out, bias=False)
        bits = whole("method.bits", bits, low=1, high=MOST_BITS)
        # Not persistent: the levels follow from `bits`, so a delta does not store them.
        self.register_buffer(
            "levels", levels(bits).to(self.weight.device, copy=True), persistent=False
        )
        self.levels: Tensor

    def rounded(self) -> Tensor:
        """The weight used by `forward`, (out, width)."""
        # The unbiased std, as in the authors' code.
        mean, std = self.weight.mean(), self.weight.std()
        normal = (self.weight - mean) / (std + 1e-5)
        with torch.no_grad():
            step = self._nearest(normal) - normal
        return (normal + step) * std + mean

    def _nearest(self, normal: Tensor) -> Tensor:
        """The level next to each value, (out, width) -> (out, width)"""
        ascending = self.levels.to(normal.dtype)
        # thresholds in float32, as the levels; a tie goes to the lower level
        thresholds = ((self.levels[:-1] + self.levels[1:]) / 2).to(normal.dtype)
        return ascending[torch.bucketize(normal, thresholds)]

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., out)"""
        return F.linear(x, self.rounded())


class QuantisedHead(Quantised):
    """A classification head with a few bits per weight, no bias, and at first `head`'s weight."""

    def __init__(self, head: nn.Linear, bits: int) -> None:
        super().__init__(head.in_features, head.out_features, bits)
        self.weight = nn.Parameter(head.weight.detach())

    def folded(self) -> nn.Module:
        """One linear map, with a zero bias since timm's head has one."""
        plain = nn.Linear(self.in_features, self.out_features, device=self.weight.device)
        nn.init.zeros_(plain.bias)
        plain.weight = nn.Parameter(self.rounded().detach())
        return plain.to(self.weight.dtype)


def quantise_head(backbone: Backbone, bits: int | None) -> None:
    """Replace the backbone's head by a quantised one; None leaves it as it is.

    Raises UserError for a head that starts at zero: all its entries would stay equal.
    """
    if bits is not None:
        if backbone.head_start == "zeros":
            raise UserError(
                "method.head_bits rounds a head to levels of its own spread, and a start of zeros "
                "has none; set backbone.head_start=small_normal or method.head_bits=null"
            )
        head = cast(nn.Linear, backbone.head)
        swap_these(backbone.net, {head: QuantisedHead(head, bits)})
