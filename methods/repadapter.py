"""RepAdapter: Towards Efficient Visual Adaption via Structural Re-parameterization,
https://arxiv.org/abs/2302.08106.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from petlbench.checks import fraction, size, subset, whole
from petlbench.errors import Unsupported, UserError
from petlbench.layers import GroupedLinear, Residual, Scaled, affine
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.swap import has, swap

# Below `blocks` only: SigLIP's attention pooling has an mlp.fc1 too.
SITES = {"attn": "*.blocks.*.attn.qkv", "mlp": "*.blocks.*.mlp.fc1"}  # both read a norm
# Of several maps that read one norm, as in EVA-02: the first of them, and the norm.
SHARED = {
    "attn": ("*.blocks.*.attn.q_proj", "*.blocks.*.norm1"),
    "mlp": ("*.blocks.*.mlp.fc1_g", "*.blocks.*.norm2"),
}


class LinearAdapter(nn.Module):
    """W_u dropout(W_d n + b_d) + b_u with W_d (h, d) and W_u (d, h), block-diagonal in `groups`.

    It has no activation, so in eval mode it folds into the linear map after it. W_d starts
    Xavier-uniform and the rest at zero.
    """

    units = 1

    def __init__(self, width: int, hidden: int, groups: int, dropout: float) -> None:
        super().__init__()
        hidden = size("method.hidden", hidden)
        groups = whole("method.groups", groups, low=1)
        if hidden % groups or width % groups:
            raise UserError(
                f"method.groups is {groups}; it must divide hidden {hidden} and width {width}"
            )
        self.down = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.up = GroupedLinear(hidden, width, groups)
        nn.init.xavier_uniform_(self.down.weight)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, n: Tensor) -> Tensor:
        """(..., d) -> (..., d)"""
        return self.up(self.dropout(self.down(n)))  # type: ignore[no-any-return]


class Adapted(nn.Sequential):
    """W (n + s A(n)) + b: a linear adapter A, then a frozen linear map."""

    def folded(self) -> nn.Module:
        """One linear map."""
        return affine(self, cast(nn.Linear, self[1]))  # n + s A(n) is self[0]


class AdaptedNorm(nn.Sequential):
    """n + s A(n) with n of a norm that several linear maps read."""

    def folded(self) -> nn.Module:
        """Raises Unsupported: in EVA-02 the key's projection has no bias to take the adapter's."""
        raise Unsupported("several linear layers read its adapter")


class RepAdapter(Method):
    """n + s A(n) between norm and attention, and between norm and MLP: `sites`, eq. 6.

    The authors' `repblock` has both sites, their `repattn` attention only. Biases are counted
    here, but not in the paper's 0.22 M.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        hidden: int,
        groups: int,
        scale: float,
        dropout: float,
        sites: Sequence[str],
    ) -> None:
        super().__init__(backbone)

        def adapted(linear: nn.Linear) -> nn.Module:
            body = LinearAdapter(linear.in_features, hidden, groups, dropout)
            return Adapted(Residual(Scaled(scale, body)), linear)

        def adapted_norm(norm: nn.LayerNorm) -> nn.Module:
            body = LinearAdapter(len(norm.weight), hidden, groups, dropout)
            return AdaptedNorm(norm, Residual(Scaled(scale, body)))

        for site in subset("method.sites", sites, SITES):
            first, norm = SHARED[site]
            if has(backbone, first):
                swap(backbone, norm, adapted_norm)
            else:
                swap(backbone, SITES[site], adapted)
