"""VQT: Visual Query Tuning, https://arxiv.org/abs/2212.03220."""

from typing import Self, cast

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, size
from petlbench.errors import Unsupported
from petlbench.method import Method
from petlbench.methods.vpt import start_bound
from petlbench.model.backbone import Backbone
from petlbench.model.block import PreNormBlock, plain_vit_blocks


class QueriedBlock(PreNormBlock):
    """A block that also answers queries: a = q + attention(q, z), then a + mlp(norm2(a)).

    The tokens do not attend to the queries, so the block's own output does not depend on them.
    """

    def ask(self, queries: Tensor, z: Tensor) -> Tensor:
        """Queries (B, T, C) and tokens (B, N, C) -> answers (B, T, C)"""
        answers = queries + self.attend(self.norm1(queries), self.norm1(z))
        return answers + self.mlp(self.norm2(answers))

    def attend(self, queries: Tensor, n: Tensor) -> Tensor:
        """Normalised queries (B, T, C) attend to normalised tokens n (B, N, C) -> (B, T, C)"""
        block, attn = self.block, cast(Attention, self.block.attn)
        width = attn.qkv.in_features
        weight, bias = attn.qkv.weight, attn.qkv.bias
        heads = (attn.num_heads, -1)
        q = F.linear(queries, weight[:width], None if bias is None else bias[:width])
        kv = F.linear(n, weight[width:], None if bias is None else bias[width:])
        q = q.unflatten(-1, heads).transpose(1, 2)  # (B, heads, T, C / heads)
        k, v = kv.unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)  # (B, heads, N, C / heads)
        mixed = F.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v)
        out = attn.proj(attn.norm(mixed.transpose(1, 2).flatten(2)))
        return block.drop_path1(block.ls1(out))  # type: ignore[no-any-return]


class VQT(Method):
    """T learned queries per block; a wider head reads their answers beside the class token.

    The head reads [class token after the norm; the T answers of each block], (1 + L T) d values,
    with each part normalised to length 1; most trained parameters are the head's. Only the path of
    a query through its own block needs a gradient. The frozen network stays in eval mode, but for
    a dropout of the embedded tokens, as in the authors' code (andytu28/VQT).
    """

    starts_as_pretrained = False
    unmergeable = "its queries are tokens of their own"

    def __init__(
        self,
        backbone: Backbone,
        *,
        queries: int,
        dropout: float,
        embedding_dropout: float = 0.0,  # deltas of earlier versions do not have it
    ) -> None:
        super().__init__(backbone)
        size("method.queries", queries)
        blocks = (block for stage in backbone.stages for block in stage.blocks)
        for block in plain_vit_blocks("VQT", backbone.tag, blocks):
            # `attend` computes it itself
            if type(block.attn) is not Attention:
                raise Unsupported(f"VQT supports plain attention only, not that of {backbone.tag}")
        width, depth = backbone.widths[0], backbone.depth
        backbone.swap_blocks(lambda block, _: QueriedBlock(block))
        bound = start_bound(backbone)
        self.queries = nn.Parameter(torch.empty(depth, queries, width).uniform_(-bound, bound))
        self.units = depth
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.embedding_dropout = nn.Dropout(
            fraction("method.embedding_dropout", embedding_dropout)
        )
        head = cast(nn.Linear, backbone.head)
        backbone.net.head = nn.Linear((1 + depth * queries) * width, head.out_features)
        backbone.start_head()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, K)"""
        z = self.embedding_dropout(self.backbone.embed(images))
        parts = []  # the answers of each block, (B, T C)
        # The network's block answers; the walk may call a replacement, e.g. a checkpointed block.
        blocks = zip(self.backbone.net.blocks, self.backbone.stages[0].blocks, strict=True)
        for queries, (queried, block) in zip(self.queries, blocks, strict=True):
            expanded = self.dropout(queries.expand(z.shape[0], -1, -1))  # (B, T, C)
            parts.append(self.beside(queried.ask, expanded, z).flatten(1))
            z = block(z)
        parts = [F.normalize(part, dim=-1) for part in (self.backbone.pooled(z), *parts)]
        return self.backbone.head(torch.cat(parts, dim=-1))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Self:
        """The backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self
