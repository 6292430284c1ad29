"""Pruned starts of LST's side blocks: the most important rows and columns of frozen blocks.

Ladder Side-Tuning, https://arxiv.org/abs/2206.06522; ylsung/Ladder-Side-Tuning @ 1798e82e.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.method import Method
from petlbench.model.backbone import Backbone

MOST_EXAMPLES = 1024  # for the Fisher importance
SMALLEST = 1e-30  # lower bound of an importance before its logarithm
Importance = Mapping[str, Tensor]  # of each weight, by its name in the network or the block


def magnitude(backbone: Backbone, examples: object) -> Importance:
    """The absolute value of each weight; `examples` are not used."""
    return {name: tensor.detach().abs() for name, tensor in backbone.net.named_parameters()}


def fisher(backbone: Backbone, examples: Iterable[tuple[Tensor, Tensor]]) -> Importance:
    """Squared gradients of the loss, summed over up to 1024 training images one by one.

    examples: batches of one image (1, 3, H, W) and its label (1). The head is untrained, so the
    labels enter through random directions.
    """
    named = {
        name: tensor
        for name, tensor in backbone.net.named_parameters()
        if name.endswith("weight") and tensor.ndim > 1
    }
    sums = {name: torch.zeros_like(tensor) for name, tensor in named.items()}
    plain = Method(backbone).eval()  # eval mode drops no paths, so no masks are needed
    backbone.net.requires_grad_(True)
    try:
        for image, label in islice(examples, MOST_EXAMPLES):
            loss = F.cross_entropy(plain(image), label)
            for name, gradient in zip(
                named, torch.autograd.grad(loss, list(named.values())), strict=True
            ):
                sums[name] += gradient.square()
    finally:
        backbone.net.requires_grad_(False)
        backbone.head.requires_grad_(True)
    return sums


def copy_pruned(
    block: Any, small: Any, importance: Importance, channels: Tensor, *, tied: bool
) -> Tensor:
    """Copy the most important parts of a block into the `small` one.

    channels: the residual channels (side) that its input keeps. Returns those of its output.
    """
    side = len(channels)
    attn, mlp = block.attn, block.mlp
    _copy_norm(block.norm1, small.norm1, channels)
    inner = _qkv_rows(importance["attn.qkv.weight"][:, channels], side)
    width = attn.qkv.in_features
    rows = torch.cat([inner + part * width for part in range(3)])  # (3 side)
    _copy_linear(attn.qkv, small.attn.qkv, rows, channels)
    outer = channels if tied else _best_rows(importance["attn.proj.weight"], inner, side)
    _copy_linear(attn.proj, small.attn.proj, outer, inner)
    _copy_norm(block.norm2, small.norm2, outer)
    hidden = _best_rows(importance["mlp.fc1.weight"], outer, small.mlp.fc1.out_features)
    _copy_linear(mlp.fc1, small.mlp.fc1, hidden, outer)
    last = channels if tied else _best_rows(importance["mlp.fc2.weight"], hidden, side)
    _copy_linear(mlp.fc2, small.mlp.fc2, last, hidden)
    return last


def _qkv_rows(importance: Tensor, count: int) -> Tensor:
    """(3 d, side) -> (count) rows that query, key and value all keep.

    They have the largest sums of the products of the three importances, computed from logarithms
    because the products are too small for floats.
    """
    parts = importance.unflatten(0, (3, -1))
    return top(parts.clamp_min(SMALLEST).log().sum(0).logsumexp(1), count)


def _best_rows(importance: Tensor, columns: Tensor, count: int) -> Tensor:
    """(out, in) -> (count) rows with the largest sums over `columns`"""
    return top(importance[:, columns].sum(1), count)


def top(scores: Tensor, count: int) -> Tensor:
    """(n) -> (count) indices of the highest scores, in ascending order"""
    return scores.topk(count).indices.sort().values


def below(importance: Importance, prefix: str) -> Importance:
    """Importances of the weights under `prefix`, by the rest of their names."""
    return {
        name.removeprefix(prefix): value
        for name, value in importance.items()
        if name.startswith(prefix)
    }


@torch.no_grad()
def _copy_linear(large: nn.Linear, small: nn.Linear, rows: Tensor, columns: Tensor) -> None:
    small.weight.copy_(large.weight[rows][:, columns])  # (out, in) -> (rows, columns)
    if large.bias is not None and small.bias is not None:
        small.bias.copy_(large.bias[rows])


@torch.no_grad()
def _copy_norm(large: nn.LayerNorm, small: nn.LayerNorm, channels: Tensor) -> None:
    small.weight.copy_(large.weight[channels])
    small.bias.copy_(large.bias[channels])
