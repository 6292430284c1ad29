"""DoRA: Weight-Decomposed Low-Rank Adaptation, https://arxiv.org/abs/2402.09353."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, positive
from petlbench.layers import LowRank, affine
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.peft import Update, side_by_side
from petlbench.swap import swap


class Decomposed(nn.Module):
    """The change of x W^T when W becomes m V / ||V||, V = W + s B A, eq. 5.

    m (out) starts as the norms of the rows of W, so nothing changes at the start. The norms
    ||V|| are constants for the gradient (section 4.3).
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        out, width = weight.shape
        self.update = LowRank(width, out, rank)
        self.scale = positive("scale", scale)
        self.magnitude = nn.Parameter(weight.detach().norm(dim=1))

    def forward(self, x: Tensor, product: Tensor, weight: Tensor) -> Tensor:
        """(..., d) and product = x W^T (..., out) -> (..., out)"""
        with torch.no_grad():
            change = self.scale * self.update.up.weight @ self.update.down.weight
            norms = (weight + change).norm(dim=1)
        ratio = (self.magnitude / norms).to(product.dtype)
        return (ratio - 1) * product + ratio * self.scale * self.update(x)  # type: ignore[no-any-return]


class QueryAndValue(nn.Module):
    """qkv(x) with decomposed query and value rows; the bias stays outside the scaling.

    Both changes are of dropout(x), as in huggingface/peft, also their part that is W's.
    """

    def __init__(self, qkv: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.qkv = qkv
        self.dropout = nn.Dropout(fraction("dropout", dropout))
        query, _, value = qkv.weight.chunk(3)
        self.query = Decomposed(query, rank, scale)
        self.value = Decomposed(value, rank, scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        query, _, value = self.qkv.weight.chunk(3)
        if self.training and self.dropout.p:
            x = self.dropout(x)
            products = F.linear(x, query), F.linear(x, value)
        else:
            query_bias, _, value_bias = _bias(self.qkv).chunk(3)
            products = q - query_bias, v - value_bias
        q = q + self.query(x, products[0], query)
        v = v + self.value(x, products[1], value)
        return torch.cat([q, k, v], dim=-1)

    def folded(self) -> nn.Module:
        """One linear map."""
        return affine(self, self.qkv)

    def low_rank_update(self) -> Update:
        """One decomposed update of all rows; the key's magnitudes are its norms."""
        query, value = (
            Update(part.update.down.weight, part.update.up.weight, part.scale)
            for part in (self.query, self.value)
        )
        key = self.qkv.weight.chunk(3)[1].norm(dim=1)
        magnitude = torch.cat([self.query.magnitude, key, self.value.magnitude])
        return replace(side_by_side(query, value), magnitude=magnitude)


class DoRA(Method):
    """Magnitude and direction of the query and value projections, the direction by low rank.

    As huggingface/peft does it. Its authors give no recipe for ViTs: the values are LoRA's.
    """

    def __init__(self, backbone: Backbone, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(backbone)
        swap(backbone, "*.attn.qkv", lambda qkv: QueryAndValue(qkv, rank, scale, dropout))


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
