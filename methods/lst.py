"""LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning,
https://arxiv.org/abs/2206.06522.

The authors' code supports T5 and CLIP-T5 (ylsung/Ladder-Side-Tuning @ 1798e82e), not ViT. This is
a ViT form with the published count of 2.38 M parameters on ViT-B/16.
"""

from typing import Any

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from petlbench.checks import whole
from petlbench.config.nodes import WHOLE
from petlbench.errors import Unsupported, UserError, unknown
from petlbench.method import Fitted, Method, Trainer
from petlbench.methods.lst_pruning import Importance, below, copy_pruned, fisher, magnitude, top
from petlbench.model.backbone import Backbone
from petlbench.model.block import plain_vit_blocks

TEMPERATURE = 0.1  # T of the gates
PRUNINGS = {"magnitude": magnitude, "fisher": fisher}


class LST(Method):
    """A ladder of small blocks beside the frozen network, each reading a frozen block's output.

    h_0 = D_0(z_0); h_i' = g_i h_i + (1 - g_i) D_i(z_{i+1}) with g_i = sigmoid(alpha_i / T) and
    z_{i+1} the output of frozen block i; h_{i+1} = sideblock_i(h_i'). The head reads U(LN(h_L)),
    not the network's own output. D_i (d / reduction, d) and U (d, d / reduction) are linear maps.
    prune: what the side blocks start from: None (random weights), `magnitude` (the largest weights
    of the frozen blocks) or `fisher` (the weights with the largest squared gradients of the loss
    on training data, under the untrained head). Query, key and value keep the rows with the
    largest products of their three importances, summed over columns. Each layer keeps the columns
    that the layer before it kept as rows.
    tied: all layers keep the residual channels of the patch embedding; in the authors' code every
    layer chooses its own.
    """

    starts_as_pretrained = False
    unmergeable = "its ladder is a network of its own"

    def __init__(
        self, backbone: Backbone, *, reduction: int, prune: str | None, tied: bool
    ) -> None:
        super().__init__(backbone)
        whole("method.reduction", reduction, low=1)
        if prune is not None and prune not in PRUNINGS:
            raise unknown("method.prune", prune, [*PRUNINGS, "null"])
        blocks = _blocks(backbone, pruned=prune is not None)
        width, heads = backbone.widths[0], blocks[0].attn.num_heads
        # The side blocks keep the number of heads; each head shrinks by the reduction.
        if width % (reduction * heads):
            raise UserError(
                f"method.reduction is {reduction}; width {width} / {reduction} must be a multiple "
                f"of the {heads} heads"
            )
        side = width // reduction
        self.prune = prune
        self.tied = tied
        self.down = nn.ModuleList(nn.Linear(width, side) for _ in range(len(blocks) + 1))
        self.gates = nn.Parameter(torch.zeros(len(blocks)))  # alpha; g = 1/2 at zero
        self.side = nn.ModuleList(
            Block(side, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in blocks
        )
        self.norm = LayerNorm(side)  # its eps is that of a ViT, 1e-6
        self.up = nn.Linear(side, width)

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding (B, N, d) -> side state after the last block (B, N, d / reduction)"""
        h = self.down[0](z)
        gates = torch.sigmoid(self.gates / TEMPERATURE)
        steps = zip(self.backbone.stages[0].blocks, self.down[1:], self.side, gates, strict=True)
        for block, down, side, gate in steps:
            # Frozen weights and a constant input: autograd records nothing of the frozen block.
            z = block(z)
            h = self.beside(side, gate * h + (1 - gate) * down(z))
        return h  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, K)"""
        h = self.features(self.backbone.embed(images))
        return self.backbone.head(self.up(self.backbone.pooled(h, self.norm)))  # type: ignore[no-any-return]

    def fit(self, trainer: Trainer) -> Fitted:
        """Copy the pruned parts if `prune` is set, then train."""
        if self.prune is not None:
            self.to(trainer.device)
            # Image by image: the square of a batch's gradient is not the sum of squares.
            self.start_pruned(PRUNINGS[self.prune](self.backbone, trainer.examples(1)))
        trainer.train(self)
        return Fitted(self)

    def start_pruned(self, importance: Importance) -> None:
        """Fill the side blocks with the most important rows and columns of the frozen blocks.

        importance: of the weights of `backbone.net`, by name.
        """
        side = self.norm.normalized_shape[0]
        embedding = importance["patch_embed.proj.weight"]  # (d, 3, patch, patch)
        channels = top(embedding.flatten(1).sum(1), side)
        for index, (block, small) in enumerate(
            zip(self.backbone.stages[0].blocks, self.side, strict=True)
        ):
            own = below(importance, f"blocks.{index}.")
            channels = copy_pruned(block, small, own, channels, tied=self.tied)


def _blocks(backbone: Backbone, *, pruned: bool) -> list[Any]:
    """The frozen blocks. Raises Unsupported if the ladder cannot be built beside them."""
    tag = backbone.tag
    blocks: list[Any] = [block for stage in backbone.stages for block in stage.blocks]
    plain_vit_blocks("LST", tag, blocks)
    if backbone.pool == "attention":
        raise Unsupported(f"LST's ladder is too narrow for the attention pooling of {tag}")
    if pruned and backbone.weight_format != WHOLE:
        raise Unsupported(
            "LST's pruned start ranks the weights themselves, and "
            f"backbone.weights={backbone.weight_format} holds them in fewer bits; set "
            f"backbone.weights={WHOLE} or method.prune=null"
        )
    # In a gated MLP fc1 has twice the outputs that fc2 reads: one set of rows cannot fit both.
    if pruned and blocks[0].mlp.fc1.out_features != blocks[0].mlp.fc2.in_features:
        raise Unsupported(
            f"LST has no pruned start for the gated MLPs of {tag}; set method.prune=null"
        )
    return blocks
