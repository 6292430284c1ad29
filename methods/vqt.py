"""VQT: Visual Query Tuning, https://arxiv.org/abs/2212.03220."""

import math
from typing import Self, cast

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, whole
from petlbench.errors import Unsupported
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.block import OpenBlock


class QueriedBlock(OpenBlock):
    """A block that also answers queries: attention over the tokens z, then the MLP.

    The tokens never see the queries, so z goes through the block as if there were none.
    """

    def ask(self, queries: Tensor, z: Tensor) -> Tensor:
        """Queries (B, T, C) and tokens (B, N, C) -> answers (B, T, C)"""
        answers = queries + self.attend(self.norm1(queries), self.norm1(z))
        return answers + self.mlp(self.norm2(answers))

    def attend(self, queries: Tensor, n: Tensor) -> Tensor:
        """Attention of the normalised queries to the normalised tokens."""
        block, attn = self.block, cast(Attention, self.block.attn)
        width = attn.qkv.in_features
        weight, bias = attn.qkv.weight, attn.qkv.bias
        heads = (attn.num_heads, -1)
        q = F.linear(queries, weight[:width], None if bias is None else bias[:width])
        kv = F.linear(n, weight[width:], None if bias is None else bias[width:])
        q = q.unflatten(-1, heads).transpose(1, 2)
        k, v = kv.unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v)
        out = attn.proj(attn.norm(mixed.transpose(1, 2).flatten(2)))
        return block.drop_path1(block.ls1(out))  # type: ignore[no-any-return]


class VQT(Method):
    """T learned queries a block, whose answers join the class token before a wider head.

    The head reads [class token after the norm; the T answers of each block], each part normalised
    to length 1: its width is (1 + L T) d, which is most of what is trained. Only the path of a
    query through its own block needs a gradient. The frozen network stays in eval mode, as in the
    authors' code (andytu28/VQT).
    """

    starts_as_pretrained = False
    unmergeable = "its queries are tokens of their own"

    def __init__(self, backbone: Backbone, *, queries: int, dropout: float) -> None:
        super().__init__(backbone)
        whole("queries", queries, low=1)
        if {type(block) for stage in backbone.stages for block in stage.blocks} != {Block}:
            raise Unsupported(f"VQT is defined for plain ViTs, and {backbone.tag} is none")
        width, depth = backbone.widths[0], backbone.depth
        backbone.swap_blocks(lambda block, _: QueriedBlock(block))
        bound = math.sqrt(6 / (3 * math.prod(backbone.net.patch_embed.patch_size) + width))
        self.queries = nn.Parameter(torch.empty(depth, queries, width).uniform_(-bound, bound))
        self.units = depth
        self.dropout = nn.Dropout(fraction("dropout", dropout))
        head = cast(nn.Linear, backbone.head)
        backbone.net.head = nn.Linear((1 + depth * queries) * width, head.out_features)
        backbone.start_head()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, K)"""
        z = self.backbone.embed(images)
        parts = []
        steps = zip(
            self.queries, self.backbone.net.blocks, self.backbone.stages[0].blocks, strict=True
        )
        for queries, asked, block in steps:
            parts.append(asked.ask(self.dropout(queries.expand(len(z), -1, -1)), z).flatten(1))
            z = block(z)
        parts = [F.normalize(part, dim=-1) for part in (self.backbone.pooled(z), *parts)]
        return self.backbone.head(torch.cat(parts, dim=-1))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Self:
        """The backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self
