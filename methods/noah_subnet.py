"""A subnet of NOAH: LoRA, adapter and prompts in every block, https://arxiv.org/abs/2206.04673.

As in ZhangYuanhan-AI/NOAH @ e9c55f36, except that the prompts before the first block, which the
first block replaces, are left out here and in the count.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from petlbench.checks import LARGEST_SIZE, fraction, whole
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.methods.noah_elastic import ElasticAdapter, ElasticLoRA, ElasticPrompts
from petlbench.methods.noah_genes import MODULES, Genes
from petlbench.model.backbone import Backbone
from petlbench.model.block import PreNormBlock, plain_vit_blocks
from petlbench.swap import swap


class SearchedBlock(PreNormBlock):
    """y = z + attention(norm1(z)); y + A(mlp(norm2(y))), A after the branch's drop path."""

    def __init__(self, block: nn.Module, adapter: nn.Module) -> None:
        super().__init__(block)
        self.after_mlp = adapter

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d) -> (B, N, d)"""
        z = z + self.attention(self.norm1(z))
        return z + self.after_mlp(self.mlp(self.norm2(z)))  # type: ignore[no-any-return]


class Composed(Method):
    """LoRA, adapter and prompts of given sizes in every block of a plain ViT.

    A module of size 0 is not created. Prompts are the last tokens: block i drops those that the
    block before it has brought and appends its own; a block without prompts leaves the tokens as
    they are, so the prompts before it stay to the end.
    """

    starts_as_pretrained = False
    unmergeable = "its adapters have an activation, and its prompts are tokens"

    def __init__(self, backbone: Backbone, genes: Genes, dropout: float) -> None:
        super().__init__(backbone)
        fraction("method.dropout", dropout)
        blocks = (block for stage in backbone.stages for block in stage.blocks)
        plain_vit_blocks("NOAH", backbone.tag, blocks)
        _check_sizes(genes, backbone.depth)
        width = backbone.widths[0]
        # swap and swap_blocks visit the blocks in order, one size for each.
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
                # A ModuleDict takes no numbers as keys.
                str(number): ElasticPrompts(width, size, dropout)
                for number, size in enumerate(genes.prompts, 1)
                if size
            }
        )

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding -> last block, (B, N, d) -> (B, N, d), without the prompts"""
        own, before = z.shape[1], 0  # tokens of the network; prompts of the block before
        for number, block in enumerate(self.backbone.stages[0].blocks, 1):
            prompts = self.prompts_of(number)
            size = 0 if prompts is None else prompts.size  # 0 too if a supernet switches it off
            if prompts is not None and size:
                z = torch.cat([z[:, : z.shape[1] - before], prompts(len(z))], dim=1)
            z, before = block(z), size
        return z[:, :own]

    def prompts_of(self, number: int) -> ElasticPrompts | None:
        """The prompts of a block, counted from 1, or None if it has none."""
        key = str(number)
        return cast(ElasticPrompts, self.prompts[key]) if key in self.prompts else None


class NOAHSubnet(Composed):
    """The result of a search: `lora`, `adapter` and `prompts` list a size for each block."""

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


def _check_sizes(genes: Genes, depth: int) -> None:
    """Raise UserError if a list does not have a size of at least 0 for each block."""
    for name in MODULES:
        sizes = getattr(genes, name)
        if len(sizes) != depth:
            raise UserError(
                f"method.{name} has {len(sizes)} sizes and the network {depth} blocks; "
                f"set method.{name} to a list of {depth}"
            )
        for size in sizes:
            whole(f"a size of method.{name}", size, low=0, high=LARGEST_SIZE)
