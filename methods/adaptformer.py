"""AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition,
https://arxiv.org/abs/2205.13535.
"""

from torch import Tensor, nn

from petlbench.layers import Bottleneck, Scaled
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.block import PreNormBlock


class ParallelBlock(PreNormBlock):
    """y = z + attention(norm1(z)); y + mlp(norm2(y)) + branch(y), eq. 4.

    The branch reads the residual stream itself, without norm2, and is not under drop path.
    """

    def __init__(self, block: nn.Module, branch: nn.Module) -> None:
        super().__init__(block)
        self.branch = branch

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d) or (B, H, W, d) -> the same shape"""
        y = z + self.attention(self.norm1(z))  # (B, ..., d), the input of norm2
        return y + self.mlp(self.norm2(y)) + self.branch(y)  # type: ignore[no-any-return]


class AdaptFormer(Method):
    """The branch s (W_u ReLU(W_d y + b_d) + b_u) beside every MLP.

    bias: the authors' code (ShoufaChen/AdaptFormer @ 6967d676) has b_d and b_u; that of PETL-ViT,
    the source of the numbers on VTAB-1K, has neither.
    """

    unmergeable = "its branch has an activation"

    def __init__(
        self, backbone: Backbone, *, rank: int, scale: float, dropout: float, bias: bool
    ) -> None:
        super().__init__(backbone)

        def branch(width: int) -> nn.Module:
            # Bottleneck starts with W_u = 0, so the branch adds nothing before training.
            return Scaled(scale, Bottleneck(width, rank, nn.ReLU(), dropout, bias=bias))

        backbone.swap_blocks(lambda block, width: ParallelBlock(block, branch(width)))
