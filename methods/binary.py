"""Bi-LoRA and Bi-AdaptFormer: Revisiting the Parameter Efficiency of Adapters from the Perspective
of Precision Redundancy, https://arxiv.org/abs/2307.16867.

LoRA and AdaptFormer with a few bits per weight: the forward pass quantises every matrix, and the
gradient skips the rounding.
"""

from torch import Tensor, nn

from petlbench.checks import fraction, size, whole
from petlbench.layers import QueryAndValue, Scaled
from petlbench.method import Method
from petlbench.methods.adaptformer import ParallelBlock
from petlbench.methods.quantised import Quantised, quantise_head
from petlbench.model.backbone import Backbone
from petlbench.swap import swap


class BinaryBranch(nn.Module):
    """W_u dropout(phi(W_d x)) with W_d (rank, width) and W_u (width, rank) quantised.

    W_d starts Kaiming-uniform, W_u from N(0, 0.001^2) cut at two deviations: a matrix of zeros
    would have no spread to quantise by.
    """

    units = 1

    def __init__(self, width: int, rank: int, bits: int, dropout: float, act: nn.Module) -> None:
        super().__init__()
        rank = size("method.rank", rank)
        self.down = Quantised(width, rank, bits)
        self.act = act
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.up = Quantised(rank, width, bits)
        # torch takes a and b as values, not as deviations.
        nn.init.trunc_normal_(self.up.weight, std=0.001, a=-0.002, b=0.002)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)"""
        return self.up(self.dropout(self.act(self.down(x))))  # type: ignore[no-any-return]


class BiLoRA(Method):
    """LoRA on query and value with quantised factors: W x + b + s B A x, phi the identity.

    head_bits: bits of a quantised head (1 in the authors' bihead); None leaves the head as it is.
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
            # The bound of LowRank, which LoRA uses: a higher rank is no low-rank update.
            whole("method.rank", rank, low=1, high=width, of="the width of the network there")
            return Scaled(scale, BinaryBranch(width, rank, bits, dropout, nn.Identity()))

        swap(
            backbone,
            "*.attn.qkv",
            # The key has no update, as in LoRA.
            lambda qkv: QueryAndValue(qkv, branch(qkv.in_features), branch(qkv.in_features)),
        )


class BiAdaptFormer(Method):
    """AdaptFormer without biases and with a quantised bottleneck, phi = ReLU.

    head_bits: as for BiLoRA.
    """

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
