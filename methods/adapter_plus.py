"""Adapter+: Adapters Strike Back, https://arxiv.org/abs/2406.06820."""

import torch
from torch import Tensor, nn

from petlbench.checks import fraction
from petlbench.layers import Bottleneck
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.drop_path import DropPath


class PostAdapted(nn.Module):
    """x + gamma * droppath(W_u GELU(W_d x + b_d) + b_u) with x = block(z), gamma (d).

    W_d and W_u start as Houlsby's, from N(0, 0.01^2) cut at two deviations (visinf/adapter_plus).
    """

    def __init__(self, block: nn.Module, width: int, rank: int, drop_path: float) -> None:
        super().__init__()
        self.block = block  # any block, so networks without transformer blocks work too
        # The authors' adapter has neither dropout nor a norm.
        self.adapter = Bottleneck(width, rank, nn.GELU(), dropout=0.0)
        self.drop_path = DropPath(drop_path)
        self.gamma = nn.Parameter(torch.ones(width))
        # Bottleneck leaves W_u at zero. torch takes a and b as values, not as deviations.
        for layer in (self.adapter.down, self.adapter.up):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d) or (B, H, W, d) -> the same shape"""
        x: Tensor = self.block(z)
        return x + self.gamma * self.drop_path(self.adapter(x))  # type: ignore[no-any-return]


class AdapterPlus(Method):
    """An adapter with channel-wise scaling after every block, on the residual stream.

    Its drop path has the same rate, `adapter_drop_path`, in all blocks and a mask of its own.
    W_u does not start at zero, so training does not start at the pre-trained network.
    """

    starts_as_pretrained = False
    unmergeable = "its branch has an activation"

    def __init__(self, backbone: Backbone, *, rank: int, adapter_drop_path: float) -> None:
        super().__init__(backbone)
        rate = fraction("method.adapter_drop_path", adapter_drop_path)
        backbone.swap_blocks(lambda block, width: PostAdapted(block, width, rank, rate))
