"""Layers of which methods consist.

`units` counts structural units as in Table 1 of DTL, https://arxiv.org/abs/2312.07856: 1 for a
low-rank pair, a bottleneck, a pair of scale and shift, a convolution, a set of prompts or a core
of FacT.
"""

from petlbench.layers.linear import product
from petlbench.layers.modules import (
    NO_BIAS,
    Bottleneck,
    Chosen,
    DepthwiseConv,
    GroupedLinear,
    LowRank,
    Parallel,
    QueryAndValue,
    QuickGELU,
    Residual,
    Scaled,
    Swish,
    affine,
)
from petlbench.layers.scale_shift import ScaleShift
from petlbench.layers.side_state import SideState

__all__ = [
    "NO_BIAS",
    "Bottleneck",
    "Chosen",
    "DepthwiseConv",
    "GroupedLinear",
    "LowRank",
    "Parallel",
    "QueryAndValue",
    "QuickGELU",
    "Residual",
    "ScaleShift",
    "Scaled",
    "SideState",
    "Swish",
    "affine",
    "product",
]
