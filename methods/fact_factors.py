"""The factors of FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer,
https://arxiv.org/abs/2212.03145.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction


class Factored(nn.Module):
    """V(dropout(S U(x))): x has `ins` slices of width d, and the output `outs` slices.

    U (r, d) and V (d, r) are shared; `core` returns S (outs r, ins r).
    """

    def __init__(
        self, u: nn.Linear, core: nn.Module, v: nn.Linear, dropout: float, ins: int, outs: int
    ) -> None:
        super().__init__()
        self.u = u
        self.core = core
        self.v = v
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.slices = (ins, outs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., ins d) -> (..., outs d)"""
        ins, outs = self.slices
        codes = self.u(x.unflatten(-1, (ins, -1))).flatten(-2)  # (..., ins r)
        codes = self.dropout(F.linear(codes, self.core()))  # (..., outs r)
        return self.v(codes.unflatten(-1, (outs, -1))).flatten(-2)  # type: ignore[no-any-return]


class OwnCore(nn.Module):
    """FacT-TT: a core for each layer, Kaiming-uniform."""

    def __init__(self, rank: int, ins: int, outs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(ins * rank, outs * rank).weight.detach())
        self.units = max(ins, outs)

    def forward(self) -> Tensor:
        """(outs r, ins r)"""
        return self.weight


class Tucker(nn.Module):
    """FacT-TK: C (r, r, r) and P (r, slots), shared; core t is sum_j C[:, :, j] P[j, t]."""

    def __init__(self, rank: int, slots: int) -> None:
        super().__init__()
        self.c = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank)))
        self.p = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, slots)))


class SharedCore(nn.Module):
    """FacT-TK: the slices of one layer, computed from the factors that all layers share.

    interleave: the authors' code reads the four slices of fc1 and fc2, an array (r, r, 4), row by
    row as (r, 4 r), so that they interleave; otherwise they lie side by side, as in the paper's
    formula.
    """

    def __init__(
        self, tucker: Tucker, first: int, ins: int, outs: int, *, interleave: bool
    ) -> None:
        super().__init__()
        self.tucker = tucker
        self.first = first
        self.slices = (ins, outs)
        self.interleave = interleave
        self.units = max(ins, outs)

    def forward(self) -> Tensor:
        """(outs r, ins r)"""
        ins, outs = self.slices
        columns = self.tucker.p[:, self.first : self.first + max(ins, outs)]
        slices = self.tucker.c @ columns  # (r, r, slices), slice on the right of a row vector
        wide = slices.flatten(1) if self.interleave else slices.mT.flatten(1)  # (r, slices r)
        return wide if ins > 1 else wide.T
