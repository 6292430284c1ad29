"""Modules of NOAH whose size can change between forward passes, https://arxiv.org/abs/2206.04673."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.layers import QuickGELU

INIT_STD = 0.02  # the authors' constructor draws all linear maps anew
PROMPT_ROWS = (
    100  # prompts of a block in the authors' supernet, of which all its subnets have slices
)


class Elastic(nn.Module):
    """A module that uses the first `size` of its ranks, channels or tokens; 0 switches it off."""

    size: int
    units = 1


class ElasticLoRA(Elastic):
    """W x + b + B A dropout(x), with A (size, d) and B (3 d, size)."""

    def __init__(self, qkv: nn.Linear, size: int, dropout: float) -> None:
        super().__init__()
        self.qkv = qkv
        self.size = size
        self.dropout = nn.Dropout(dropout)
        self.down = _linear_weight(size, qkv.in_features)
        self.up = _linear_weight(qkv.out_features, size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        out: Tensor = self.qkv(x)
        if not self.size:
            return out
        codes = F.linear(self.dropout(x), self.down[: self.size])
        return out + F.linear(codes, self.up[:, : self.size])


class ElasticAdapter(Elastic):
    """m + W_u dropout(phi(W_d m + b_d)) + b_u: phi QuickGELU, W_d (size, d), W_u (d, size)."""

    def __init__(self, width: int, size: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.act = QuickGELU()
        self.dropout = nn.Dropout(dropout)
        self.down = _linear_weight(size, width)
        self.down_bias = nn.Parameter(torch.zeros(size))
        self.up = _linear_weight(width, size)
        self.up_bias = nn.Parameter(torch.zeros(width))

    def forward(self, m: Tensor) -> Tensor:
        """(..., d) -> (..., d)"""
        if not self.size:
            return m
        hidden = self.act(F.linear(m, self.down[: self.size], self.down_bias[: self.size]))
        # b_u whole at every size, as in the authors' code.
        return m + F.linear(self.dropout(hidden), self.up[:, : self.size], self.up_bias)


class ElasticPrompts(Elastic):
    """Learned tokens (size, d)."""

    def __init__(self, width: int, size: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.dropout = nn.Dropout(dropout)
        # Xavier-uniform over the authors' tensor (1, PROMPT_ROWS, d), whose fans torch counts as
        # PROMPT_ROWS d and d.
        bound = math.sqrt(6 / ((PROMPT_ROWS + 1) * width))
        self.tokens = nn.Parameter(torch.empty(size, width).uniform_(-bound, bound))

    def forward(self, images: int) -> Tensor:
        """(images, size, d)"""
        return self.dropout(self.tokens[: self.size].expand(images, -1, -1))  # type: ignore[no-any-return]


def _linear_weight(out: int, width: int) -> nn.Parameter:
    """(out, width) from N(0, 0.02^2)"""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(out, width), std=INIT_STD))
