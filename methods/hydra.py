"""Hydra: Multi-head Low-rank Adaptation for Parameter Efficient Fine-tuning,
https://arxiv.org/abs/2309.06922.

As in extremebird/Hydra @ 41384578.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from petlbench.checks import fraction, positive, size, subset
from petlbench.layers import affine
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.swap import swap

# Below `blocks` only: SigLIP's attention pooling has layers of these names too.
SITES = {"attn": "*.blocks.*.attn.proj", "mlp": "*.blocks.*.mlp.fc2"}  # the output projections
BRANCHES = ("parallel", "sequential")


class Branch(nn.Module):
    """W_u dropout(W_d x + b_d) + b_u with W_d (r, width) and W_u (out, r).

    W_d starts Xavier-uniform and the rest at zero.
    """

    units = 1

    def __init__(self, width: int, out: int, rank: int, dropout: float) -> None:
        super().__init__()
        rank = size("method.rank", rank)
        self.down = nn.Linear(width, rank)
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.up = nn.Linear(rank, out)
        nn.init.xavier_uniform_(self.down.weight)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., out)"""
        return self.up(self.dropout(self.down(x)))  # type: ignore[no-any-return]


class MultiHead(nn.Module):
    """z + s P(u) + s S(z) with z = W u + b: branches parallel to a linear map and after it.

    S reads z without the parallel branch. Without an activation both fold into W and b.
    """

    def __init__(
        self, op: nn.Linear, branches: Sequence[str], rank: int, scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.op = op
        self.scale = positive("method.scale", scale)
        widths = {"parallel": op.in_features, "sequential": op.out_features}
        self.branches = nn.ModuleDict(
            {name: Branch(widths[name], op.out_features, rank, dropout) for name in branches}
        )

    def forward(self, u: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        out = z = self.op(u)
        inputs = {"parallel": u, "sequential": z}
        for name, branch in self.branches.items():
            out = out + self.scale * branch(inputs[name])
        return out  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """One linear map."""
        return affine(self, self.op)


class Hydra(Method):
    """Linear branches at the output projections of attention and MLP: `sites`.

    branches: parallel reads the input of a projection, sequential its output. The authors' code
    has no Swin; here both sites are those of a ViT, with the width of each stage.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: int,
        scale: float,
        dropout: float,
        sites: Sequence[str],
        branches: Sequence[str],
    ) -> None:
        super().__init__(backbone)
        heads = subset("method.branches", branches, BRANCHES)
        for site in subset("method.sites", sites, SITES):
            swap(backbone, SITES[site], lambda op: MultiHead(op, heads, rank, scale, dropout))
