"""ARC: Efficient Adaptation of Large Vision Transformer via Adapter Re-Composing,
https://arxiv.org/abs/2310.06234.

As in DavidYanAnDe/ARC @ 8227d57e. ARC_att, the form with adapters before attention only, is a
preset, conf/method/arc_att.yaml. The authors give values for each task of VTAB-1K for Swin alone,
so ViT has no recipe.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, size, subset
from petlbench.errors import Unsupported
from petlbench.layers import affine
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.block import PreNormBlock
from petlbench.model.folding import folded

# How the factors c of a block start, by site; only attention starts with an identity.
STARTS: Mapping[str, Callable[[Tensor], object]] = {
    "attn": nn.init.zeros_,
    "mlp": nn.init.xavier_uniform_,
}
READERS = {  # the linear maps that read the norm before a site; the later names are EVA-02's
    "attn": ("qkv", "q_proj", "k_proj", "v_proj"),
    "mlp": ("fc1", "fc1_g", "fc1_x"),
}
DROPOUTS = ("pos_drop", "mlp.drop1", "mlp.drop2")


class Recomposed(nn.Module):
    """n + dropout(n D diag(c)) D^T + b: c (1, r) and b (d) of one block, D (d, r) of all blocks.

    D is the transposed weight of `projection`. The sum is linear in n.
    """

    units = 1

    def __init__(
        self, projection: nn.Linear, start: Callable[[Tensor], object], dropout: float
    ) -> None:
        super().__init__()
        self.projection = projection
        self.scale = nn.Parameter(torch.empty(1, projection.out_features))
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.shift = nn.Parameter(torch.zeros(projection.in_features))
        start(self.scale)

    def forward(self, n: Tensor) -> Tensor:
        """(..., d) -> (..., d)"""
        codes = self.dropout(self.projection(n) * self.scale)  # (..., r)
        return n + F.linear(codes, self.projection.weight.T, self.shift)


class RecomposedBlock(PreNormBlock):
    """z + attention(A(norm1(z))), then z + mlp(A(norm2(z))), with an adapter A each.

    At a site without an adapter A(n) = n.
    """

    def __init__(self, block: nn.Module, adapters: Mapping[str, Recomposed]) -> None:
        super().__init__(block)
        self.adapters = nn.ModuleDict(adapters)  # by site

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d) -> (B, N, d)"""
        z = z + self.attention(self.adapted("attn", self.norm1(z)))
        return z + self.mlp(self.adapted("mlp", self.norm2(z)))

    def adapted(self, site: str, n: Tensor) -> Tensor:
        """A(n) of a site: (B, ..., d) -> (B, ..., d)"""
        return cast(Tensor, self.adapters[site](n)) if site in self.adapters else n

    def folded(self) -> nn.Module:
        """The network's block, with each adapter in the linear maps that read it."""
        plain = folded(self.block)
        for site, adapter in self.adapters.items():
            part = plain.get_submodule(site)
            for name, reader in list(part.named_children()):  # a list, since the loop sets some
                if name in READERS[site]:
                    both = nn.Sequential(adapter, reader)
                    setattr(part, name, affine(both, cast(nn.Linear, reader)))
        return plain


class RecomposedSwinBlock(RecomposedBlock):
    """As above before attention; before the MLP A acts on z itself, so the skip has it too.

    The authors' Swin differs from their ViT in this. Attention cuts the adapted map into windows.
    """

    def forward(self, z: Tensor) -> Tensor:
        """(B, H, W, d) -> (B, H, W, d)"""
        z = z + self.attention(self.adapted("attn", self.norm1(z)))
        z = self.adapted("mlp", z)
        return z + self.mlp(self.norm2(z))

    def folded(self) -> nn.Module:
        """As above. Raises Unsupported if the block has an adapter before the MLP."""
        if "mlp" in self.adapters:
            raise Unsupported("in a Swin its adapter before the MLP changes the skip connection")
        return super().folded()


class ARC(Method):
    """Linear adapters with a skip before attention, before the MLP or both (`sites`).

    Their blocks share one projection D for each site, in a Swin one for each stage and site, and
    use it down and up; a block has its own factors c and shifts b. D starts Xavier-uniform and b
    at zero, c at zero before attention and Xavier-uniform before the MLP. So only ARC_att, with
    the one site, starts as the pre-trained network.
    In a Swin the form with the site `mlp` cannot be merged.
    backbone_dropout: rate after the GELU and the last layer of the frozen MLPs, and on a ViT after
    the position embedding.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: int,
        dropout: float,
        backbone_dropout: float,
        sites: Sequence[str],
    ) -> None:
        super().__init__(backbone)
        rank = size("method.rank", rank)
        places = subset("method.sites", sites, STARTS)
        self.starts_as_pretrained = places == ["attn"]
        _drop(backbone.net, fraction("method.backbone_dropout", backbone_dropout))
        for stage in backbone.stages:
            shared = {site: _projection(stage.width, rank) for site in places}
            for slot in stage.blocks.slots:
                adapters = {
                    site: Recomposed(shared[site], STARTS[site], dropout) for site in shared
                }
                slot.put(_recomposed(slot.own(), adapters))


def _projection(width: int, rank: int) -> nn.Linear:
    """D^T (r, d) of the blocks of a stage."""
    projection = nn.Linear(width, rank, bias=False)
    nn.init.xavier_uniform_(projection.weight)
    return projection


def _recomposed(block: nn.Module, adapters: Mapping[str, Recomposed]) -> nn.Module:
    is_swin = isinstance(block, SwinTransformerBlock)
    return (RecomposedSwinBlock if is_swin else RecomposedBlock)(block, adapters)


def _drop(net: nn.Module, rate: float) -> None:
    """Set the rate of dropouts that the network has at DROPOUTS."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Dropout) and name.endswith(DROPOUTS):
            module.p = rate
