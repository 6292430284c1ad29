"""Bi-LoRA and Bi-AdaptFormer: Revisiting the Parameter Efficiency of Adapters from the Perspective
of Precision Redundancy, https://arxiv.org/abs/2307.16867.

LoRA and AdaptFormer whose weights need a few bits each: in training every matrix is quantised on
its way through the forward pass, and its gradient goes past the rounding.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, whole
from petlbench.layers import QueryAndValue, Scaled
from petlbench.method import Method
from petlbench.methods.adaptformer import ParallelBlock
from petlbench.model.backbone import Backbone
from petlbench.swap import swap, swap_these

ROUNDS = 500  # of the fixed point; as in JieShibo/PETL-ViT @ 026e4f12
MOST_BITS = 8


def levels(bits: int) -> Tensor:
    """The 2^bits values that a standard normal is rounded to, ascending, float32.

    Fixed point of: each level is the median of its cell, each threshold the midpoint between two
    levels. One bit: the quartiles, -0.6745 and 0.6745. As many rounds as the authors' code takes,
    which reach the fixed point up to 4 bits; at 8 bits a round still moves levels by up to 7e-4.
    """
    values = torch.linspace(-1, 1, 2**bits, dtype=torch.float64, device="cpu")
    for _ in range(ROUNDS):
        below = torch.special.ndtr((values[:-1] + values[1:]) / 2)
        below = torch.cat([below.new_zeros(1), below, below.new_ones(1)])
        values = torch.special.ndtri((below[:-1] + below[1:]) / 2)
    rounded: Tensor = values.float()
    return rounded


class Quantised(nn.Linear):
    """A bias-free linear map whose weight is rounded to 2^bits levels of its own mean and spread.

    w^ = (w - mean) / (std + 1e-5), rounded to the nearest level, times std, plus mean. The
    gradient takes the rounding for the identity; mean and std stay in the graph.
    """

    def __init__(self, width: int, out: int, bits: int) -> None:
        super().__init__(width, out, bias=False)
        bits = whole("bits", bits, low=1, high=MOST_BITS)
        self.register_buffer("levels", levels(bits).to(self.weight.device), persistent=False)
        self.levels: Tensor

    def rounded(self) -> Tensor:
        """The weight as it is used, (out, width)."""
        mean, std = self.weight.mean(), self.weight.std()
        normal = (self.weight - mean) / (std + 1e-5)
        with torch.no_grad():
            middles = (self.levels[:-1] + self.levels[1:]) / 2
            # a tie goes to the lower level; trained weights do not lie on a threshold
            nearest = self.levels.to(normal.dtype)[
                torch.bucketize(normal, middles.to(normal.dtype))
            ]
            step = nearest - normal
        return (normal + step) * std + mean

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., out)"""
        return F.linear(x, self.rounded())


class QuantisedHead(Quantised):
    """A classification head of a few bits a weight, without bias, that starts as `head` does."""

    def __init__(self, head: nn.Linear, bits: int) -> None:
        super().__init__(head.in_features, head.out_features, bits)
        self.weight = nn.Parameter(head.weight.detach())

    def folded(self) -> nn.Module:
        """One linear map, with the bias of zero that timm's head wants."""
        plain = nn.Linear(self.in_features, self.out_features, device=self.weight.device)
        nn.init.zeros_(plain.bias)
        plain.weight = nn.Parameter(self.rounded().detach())
        return plain.to(self.weight.dtype)


def quantise_head(backbone: Backbone, bits: int | None) -> None:
    """Put a quantised head in the place of the backbone's, or leave it where `bits` is None."""
    if bits is not None:
        head = cast(nn.Linear, backbone.head)
        swap_these(backbone.net, {head: QuantisedHead(head, bits)})


class BinaryBranch(nn.Module):
    """up(dropout(act(down(x)))), both maps quantised.

    `down` starts Kaiming-uniform, `up` from N(0, 0.001^2) cut at two deviations: a matrix of zeros
    would have no spread to quantise by.
    """

    units = 1

    def __init__(self, width: int, rank: int, bits: int, dropout: float, act: nn.Module) -> None:
        super().__init__()
        rank = whole("rank", rank, low=1)
        self.down = Quantised(width, rank, bits)
        self.act = act
        self.dropout = nn.Dropout(fraction("dropout", dropout))
        self.up = Quantised(rank, width, bits)
        nn.init.trunc_normal_(self.up.weight, std=0.001, a=-0.002, b=0.002)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)"""
        return self.up(self.dropout(self.act(self.down(x))))  # type: ignore[no-any-return]


class BiLoRA(Method):
    """LoRA on query and value with quantised factors.

    `head_bits`: the head is quantised too (the authors' bihead has 1); None leaves it as it is.
    """

    starts_as_pretrained = False

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: int,
        bits: int,
        scale: float,
        dropout: float,
        head_bits: int | None,
    ) -> None:
        super().__init__(backbone)
        quantise_head(backbone, head_bits)

        def branch(width: int) -> nn.Module:
            whole("rank", rank, low=1, high=width, of="the width of the network there")
            return Scaled(scale, BinaryBranch(width, rank, bits, dropout, nn.Identity()))

        swap(
            backbone,
            "*.attn.qkv",
            lambda qkv: QueryAndValue(qkv, branch(qkv.in_features), branch(qkv.in_features)),
        )


class BiAdaptFormer(Method):
    """AdaptFormer without biases, its bottleneck quantised; `head_bits` as for BiLoRA."""

    starts_as_pretrained = False
    unmergeable = "its branch has an activation"

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: int,
        bits: int,
        scale: float,
        dropout: float,
        head_bits: int | None,
    ) -> None:
        super().__init__(backbone)
        quantise_head(backbone, head_bits)

        def branch(width: int) -> nn.Module:
            return Scaled(scale, BinaryBranch(width, rank, bits, dropout, nn.ReLU()))

        backbone.swap_blocks(lambda block, width: ParallelBlock(block, branch(width)))
