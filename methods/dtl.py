"""DTL: Disentangled Transfer Learning for Visual Recognition, https://arxiv.org/abs/2312.07856.

A compact side path leaves the backbone alone: it extracts from the blocks and injects into the
late ones only. So the early blocks have constant inputs, and backward does not enter them.
"""

from torch import Tensor, nn

from petlbench.checks import block_number
from petlbench.layers import LowRank, Swish
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.stage import Stage


class DTL(Method):
    """h <- h + z_i a_i c_i from block `extract_from` on; z <- z + theta(h) from `inject_from` on.

    theta(h) = h sigmoid(beta h), and the identity where `beta` is None (Table 5 of the paper). In
    the first update z is the input of block i, in the second its output. Block numbers count from
    1 over all stages. h starts at zero in each stage; a stage in which nothing is injected has no
    side path, since it could not learn.
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
        self.extract_from = block_number("extract_from", extract_from, backbone.depth)
        self.inject_from = block_number("inject_from", inject_from, backbone.depth)
        self.activation = nn.Identity() if beta is None else Swish(beta)
        self.side = nn.ModuleDict(
            {
                str(number): LowRank(stage.width, stage.width, rank)
                for stage in self.injecting()
                for number in range(stage.first, stage.first + len(stage.blocks))
                if number >= self.extract_from
            }
        )

    def injecting(self) -> list[Stage]:
        """Stages with a block at which something extracted is injected."""
        start = max(self.extract_from, self.inject_from)
        return [s for s in self.backbone.stages if s.first + len(s.blocks) > start]

    def theta(self, h: Tensor, stage: Stage) -> Tensor:
        """What the blocks of a stage are given of the side state h."""
        return self.activation(h)  # type: ignore[no-any-return]

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding to last block, with the side path beside it."""
        for stage in self.backbone.stages:
            z = stage.enter(z)
            h = z.new_zeros(())
            for number, block in enumerate(stage.blocks, stage.first):
                if str(number) in self.side:
                    h = h + self.side[str(number)](z)
                z = block(z)
                if number >= max(self.extract_from, self.inject_from):
                    z = z + self.theta(h, stage)
        return z
