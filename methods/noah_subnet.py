"""A subnet of NOAH: LoRA, adapter and prompts in every block, https://arxiv.org/abs/2206.04673.

As in ZhangYuanhan-AI/NOAH @ e9c55f36, but that the prompts ahead of the first block, which that
block replaces unseen, are left out here and in the count.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, whole
from petlbench.errors import Unsupported, UserError
from petlbench.layers import QuickGELU
from petlbench.method import Method
from petlbench.methods.noah_genes import MODULES, Genes
from petlbench.model.backbone import Backbone
from petlbench.model.block import OpenBlock
from petlbench.swap import swap

INIT_STD = 0.02  # the authors' constructor leaves all linear maps so
PROMPT_ROWS = 100  # of the authors' supernet; sets the range of Xavier-uniform prompts


class Elastic(nn.Module):
    """A module of which the first `size` units are in use; 0 takes it out."""

    size: int
    units = 1


class ElasticLoRA(Elastic):
    """qkv(x) + B A dropout(x), one update of query, key and value."""

    def __init__(self, qkv: nn.Linear, size: int, dropout: float) -> None:
        super().__init__()
        self.qkv = qkv
        self.size = size
        self.dropout = nn.Dropout(dropout)
        self.down = _linear_weight(size, qkv.in_features)
        self.up = _linear_weight(qkv.out_features, size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        out: Tensor = self.qkv(x)
        if not self.size:
            return out
        codes = F.linear(self.dropout(x), self.down[: self.size])
        return out + F.linear(codes, self.up[:, : self.size])


class ElasticAdapter(Elastic):
    """m + W_u dropout(phi(W_d m + b_d)) + b_u with phi QuickGELU."""

    def __init__(self, width: int, size: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.act = QuickGELU()
        self.dropout = nn.Dropout(dropout)
        self.down = _linear_weight(size, width)
        self.down_bias = nn.Parameter(torch.zeros(size))
        self.up = _linear_weight(width, size)
        self.up_bias = nn.Parameter(torch.zeros(width))

    def forward(self, m: Tensor) -> Tensor:
        """(..., width) -> (..., width)"""
        if not self.size:
            return m
        hidden = self.act(F.linear(m, self.down[: self.size], self.down_bias[: self.size]))
        return m + F.linear(self.dropout(hidden), self.up[:, : self.size], self.up_bias)


class ElasticPrompts(Elastic):
    """Learned tokens (size, width)."""

    def __init__(self, width: int, size: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.dropout = nn.Dropout(dropout)
        bound = math.sqrt(6 / (PROMPT_ROWS + width))
        self.tokens = nn.Parameter(torch.empty(size, width).uniform_(-bound, bound))

    def forward(self, images: int) -> Tensor:
        """(images, size, width)"""
        return self.dropout(self.tokens[: self.size].expand(images, -1, -1))  # type: ignore[no-any-return]


class SearchedBlock(OpenBlock):
    """A block with an adapter behind the MLP branch and its drop path."""

    def __init__(self, block: nn.Module, adapter: nn.Module) -> None:
        super().__init__(block)
        self.after_mlp = adapter

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.attention(self.norm1(z))
        return z + self.after_mlp(self.mlp(self.norm2(z)))  # type: ignore[no-any-return]


class Composed(Method):
    """LoRA, adapter and prompts of given sizes in every block of a plain ViT.

    A module of size 0 is not made. Prompts stand at the end of the sequence: block i drops those
    of the block before it and appends its own; where it has none, the tokens stay as they are.
    """

    starts_as_pretrained = False
    unmergeable = "its adapters have an activation, and its prompts are tokens"

    def __init__(self, backbone: Backbone, genes: Genes, dropout: float) -> None:
        super().__init__(backbone)
        fraction("dropout", dropout)
        blocks = [block for stage in backbone.stages for block in stage.blocks]
        if {type(block) for block in blocks} != {Block}:
            raise Unsupported(f"NOAH is defined for plain ViTs, and {backbone.tag} is none")
        for name in MODULES:
            sizes = getattr(genes, name)
            if len(sizes) != len(blocks):
                raise UserError(
                    f"{name} has {len(sizes)} sizes and the network {len(blocks)} blocks; "
                    f"set method.{name} to a list of {len(blocks)}"
                )
            for size in sizes:
                whole(f"a size of {name}", size, low=0)
        width = backbone.widths[0]
        adapters = iter(genes.adapter)
        ranks = iter(genes.lora)

        def adapted(block: nn.Module, _: int) -> nn.Module:
            size = next(adapters)
            return SearchedBlock(
                block, ElasticAdapter(width, size, dropout) if size else nn.Identity()
            )

        def updated(qkv: nn.Linear) -> nn.Module:
            rank = next(ranks)
            return ElasticLoRA(qkv, rank, dropout) if rank else qkv

        swap(backbone, "*.attn.qkv", updated)
        backbone.swap_blocks(adapted)
        self.prompts = nn.ModuleDict(
            {
                str(number): ElasticPrompts(width, size, dropout)
                for number, size in enumerate(genes.prompts, 1)
                if size
            }
        )

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding to last block; the prompts are gone at the end."""
        own, present = z.shape[1], 0
        for number, block in enumerate(self.backbone.stages[0].blocks, 1):
            prompts = self.prompts_of(number)
            if prompts is not None and prompts.size:
                kept = z[:, : z.shape[1] - present]
                z, present = torch.cat([kept, prompts(len(z))], dim=1), prompts.size
            z = block(z)
        return z[:, :own]

    def prompts_of(self, number: int) -> ElasticPrompts | None:
        """Those of a block, counted from 1."""
        key = str(number)
        return cast(ElasticPrompts, self.prompts[key]) if key in self.prompts else None


class NOAHSubnet(Composed):
    """What a search ends with: the sizes in each block are given, block by block."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        lora: Sequence[int],
        adapter: Sequence[int],
        prompts: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__(backbone, Genes(tuple(lora), tuple(adapter), tuple(prompts)), dropout)


def _linear_weight(out: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(out, width), std=INIT_STD))
