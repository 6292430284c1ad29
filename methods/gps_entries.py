"""Layers with a few trained entries in a frozen weight, for GPS (gps.py).

Gradient-based Parameter Selection for Efficient Fine-Tuning, https://arxiv.org/abs/2312.10136.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import whole


class Entries(nn.Module):
    """K trained entries in each row of a weight (out, ...), whose rows are flattened to (out, n).

    The values take the place of the weight's own, so that a delta holds K indices and values a row
    in place of the whole weight, and weight decay acts on these values alone. A row shorter than K
    is trained entirely.
    """

    index: Tensor

    def __init__(self, weight: Tensor, per_neuron: int) -> None:
        super().__init__()
        rows = weight.detach().flatten(1)
        count = min(whole("method.per_neuron", per_neuron, low=1), rows.shape[1])
        # Until fit chooses, the middle ones, which in a kernel lie over the image everywhere.
        middle = torch.arange(count, device=weight.device) + (rows.shape[1] - count) // 2
        index = middle.repeat(len(rows), 1)  # (out, K)
        self.register_buffer("index", index)  # persistent, so that a delta stores it
        self.values = nn.Parameter(rows.gather(1, index))  # (out, K)

    def placed(self, weight: Tensor) -> Tensor:
        """The weight (out, ...) with the values in their places."""
        return self.put(self.values, weight)

    def put(self, values: Tensor, whole: Tensor) -> Tensor:
        """Values (out, K) in the places of the entries of a tensor (out, ...), in a copy."""
        return whole.flatten(1).scatter(1, self.index, values).view_as(whole)

    @torch.no_grad()
    def choose(self, weight: Tensor, gradient: Tensor) -> None:
        """Train the entries with the largest absolute gradients of each row, from `weight` on.

        gradient: (out, ...), of the weight.
        """
        largest = gradient.flatten(1).abs().topk(self.index.shape[1]).indices
        self.index.copy_(largest.sort().values)
        self.values.copy_(weight.flatten(1).gather(1, self.index))


class Selected(nn.Module):
    """A layer of a network with trained entries; its own weight stays frozen."""

    weight: Tensor
    entries: Entries

    def folded(self) -> nn.Module:
        """The plain layer."""
        plain = copy.deepcopy(self)
        plain.weight = nn.Parameter(self.entries.placed(self.weight).detach())
        del plain.entries
        plain.__class__ = next(kind for kind, own in SELECTED.items() if own is type(self))
        return plain


class SelectedLinear(Selected, nn.Linear):
    """W x + b with trained entries in W."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return F.linear(x, self.entries.placed(self.weight), self.bias)


class SelectedConv2d(Selected, nn.Conv2d):
    """A convolution with trained entries in its kernels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, H', W')"""
        kernels = self.entries.placed(self.weight)
        return self._conv_forward(x, kernels, self.bias)  # type: ignore[no-any-return]


SELECTED: Mapping[type[Any], type[Any]] = {nn.Linear: SelectedLinear, nn.Conv2d: SelectedConv2d}


def selected(layer: Any, per_neuron: int) -> Any:
    """The same linear layer or convolution, with trained entries; names and tensors stay."""
    layer.__class__ = SELECTED[type(layer)]
    layer.entries = Entries(layer.weight, per_neuron)
    return layer
