"""DTL: Disentangled Transfer Learning for Visual Recognition, https://arxiv.org/abs/2312.07856.

A compact side network reads every block and changes the outputs of the late blocks only. So the
early blocks have constant inputs, and backward does not enter them.
"""

from functools import partial
from typing import cast

from torch import Tensor, nn

from petlbench.checks import block_number
from petlbench.layers import LowRank, SideState, Swish
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.stage import Stage


class DTL(Method):
    """h <- h + z_i a_i c_i from block `extract_from` on; z <- z + theta(h) from `inject_from` on.

    theta(h) = h sigmoid(beta h), or the identity if `beta` is None (Table 5 of the paper). In the
    first update z is the input of block i, in the second its output. Blocks are counted from 1
    over all stages. h starts at zero in each stage; a stage without an injection has no side
    network, since that could not learn.
    """

    unmergeable = "its side path crosses the blocks"

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: int,
        extract_from: int,
        inject_from: int,
        beta: float | None,
    ) -> None:
        super().__init__(backbone)
        first = block_number("method.extract_from", extract_from, backbone.depth)
        # before the first extraction h is zero
        self.inject_from = max(
            first, block_number("method.inject_from", inject_from, backbone.depth)
        )
        self.activation = nn.Identity() if beta is None else Swish(beta)
        widths = {
            number: stage.width
            for stage in self.injecting()
            for number in range(stage.first, stage.first + len(stage.blocks))
            if number >= first
        }
        self.extracting = frozenset(widths)  # block numbers
        self.side = nn.ModuleDict(
            {str(number): LowRank(width, width, rank) for number, width in widths.items()}
        )

    def injecting(self) -> list[Stage]:
        """Stages with a block from `inject_from` on."""
        return [s for s in self.backbone.stages if s.first + len(s.blocks) > self.inject_from]

    def theta(self, h: Tensor, stage: Stage) -> Tensor:
        """Side state (B, N, C) or (B, H, W, C) -> the term added to a block's output, as large"""
        return self.activation(h)  # type: ignore[no-any-return]

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding -> output of the last block: (B, N, C), or (B, H, W, C) in a Swin"""
        for stage in self.backbone.stages:
            z = stage.enter(z)
            h = SideState()
            for number, block in enumerate(stage.blocks, stage.first):
                if number in self.extracting:
                    h = h.plus(cast(LowRank, self.side[str(number)]), z)
                z = block(z)
                if number >= self.inject_from:
                    z = z + h.through(partial(self.theta, stage=stage))
        return z
