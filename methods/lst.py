"""LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning,
https://arxiv.org/abs/2206.06522.

The authors' code treats T5 and CLIP-T5 (ylsung/Ladder-Side-Tuning @ 1798e82e); there is none for
ViT. This is its ViT form with the published count of 2.38 M parameters on ViT-B/16.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import whole
from petlbench.errors import Unsupported, UserError, unknown
from petlbench.method import Fitted, Method, Trainer
from petlbench.model.backbone import Backbone

TEMPERATURE = 0.1  # of the gates
MOST_EXAMPLES = 1024  # for the Fisher importance
SMALLEST = 1e-30  # importance whose logarithm is taken; below it is none
Importance = Mapping[str, Tensor]  # a value for each weight, by its name in the block


class SideNorm(nn.LayerNorm):
    """LayerNorm with the eps of a ViT."""

    def __init__(self, width: int, **places: Any) -> None:
        super().__init__(width, eps=1e-6, **places)


class LST(Method):
    """A ladder of small blocks beside the frozen network, fed by every one of its blocks.

    h_0 = D_0(z_0); h_i' = g_i h_i + (1 - g_i) D_i(z_{i+1}) with g_i = sigmoid(alpha_i / T) and
    z_{i+1} the output of frozen block i; h_{i+1} = sideblock_i(h_i'). The head reads U(LN(h_L)):
    the network's own output is not used. `prune` copies parts of the pre-trained blocks into the
    side blocks: null (they start at random), `magnitude` (the largest weights) or `fisher` (the
    most important for the task by the squared gradients of the loss under the untrained head,
    found from training data by `fit`). Query, key and value keep the rows whose three importances
    have the largest products, summed over columns. Each layer keeps the columns that the layer
    before it kept as rows; with `tied` all keep one set of residual channels, that of the patch
    embedding, where the authors' code lets every layer choose its own.
    """

    starts_as_pretrained = False
    unmergeable = "its ladder is a network of its own"

    def __init__(
        self, backbone: Backbone, *, reduction: int, prune: str | None, tied: bool
    ) -> None:
        super().__init__(backbone)
        whole("reduction", reduction, low=1)
        if prune is not None and prune not in PRUNINGS:
            raise unknown("method.prune", prune, [*PRUNINGS, "null"])
        blocks: list[Any] = [block for stage in backbone.stages for block in stage.blocks]
        if {type(block) for block in blocks} != {Block}:
            raise Unsupported(f"LST is defined for plain ViTs, and {backbone.tag} is none")
        if backbone.pool == "attention":
            raise Unsupported(
                f"LST has a ladder of another width than the attention pooling of {backbone.tag}"
            )
        if prune is not None and blocks[0].mlp.fc1.out_features != blocks[0].mlp.fc2.in_features:
            raise Unsupported(f"LST has no pruned start from the gated MLPs of {backbone.tag}")
        width, heads = backbone.widths[0], blocks[0].attn.num_heads
        if width % (reduction * heads):
            raise UserError(
                f"reduction is {reduction}; width {width} / {reduction} must be a multiple of "
                f"the {heads} heads"
            )
        side = width // reduction
        self.prune = prune
        self.tied = tied
        self.down = nn.ModuleList(nn.Linear(width, side) for _ in range(len(blocks) + 1))
        self.gates = nn.Parameter(torch.zeros(len(blocks)))
        self.side = nn.ModuleList(
            Block(side, heads, qkv_bias=True, norm_layer=SideNorm) for _ in blocks
        )
        self.norm = SideNorm(side)
        self.up = nn.Linear(side, width)

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding -> the side state after its last block, (B, N, d / reduction)"""
        h = self.down[0](z)
        gates = torch.sigmoid(self.gates / TEMPERATURE)
        steps = zip(self.backbone.stages[0].blocks, self.down[1:], self.side, gates, strict=True)
        for block, down, side, gate in steps:
            z = block(z)
            h = side(gate * h + (1 - gate) * down(z))
        return h  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, K)"""
        h = self.features(self.backbone.embed(images))
        return self.backbone.head(self.up(self.backbone.pooled(h, self.norm)))  # type: ignore[no-any-return]

    def fit(self, trainer: Trainer) -> Fitted:
        """Copy the pruned blocks where that is asked for, then train."""
        if self.prune is not None:
            self.to(trainer.device)
            self.start_pruned(PRUNINGS[self.prune](self.backbone, trainer.examples(1)))
        trainer.train(self)
        return Fitted(self)

    def start_pruned(self, importance: Importance) -> None:
        """Fill the side blocks with the most important rows and columns of the frozen blocks.

        importance: of the weights of `backbone.net`, by name.
        """
        side = self.norm.normalized_shape[0]
        embedding = importance["patch_embed.proj.weight"]
        kept = _top(embedding.flatten(1).sum(1), side)
        for index, (block, small) in enumerate(
            zip(self.backbone.stages[0].blocks, self.side, strict=True)
        ):
            own = _below(importance, f"blocks.{index}.")
            kept = _copy_pruned(block, small, own, kept, tied=self.tied)


def magnitude(backbone: Backbone, examples: object) -> Importance:
    """The absolute value of each weight."""
    return {name: tensor.detach().abs() for name, tensor in backbone.net.named_parameters()}


def fisher(backbone: Backbone, examples: Iterable[tuple[Tensor, Tensor]]) -> Importance:
    """The squared gradient of the loss, summed over up to 1024 training images one by one.

    The head is the untrained one, so the labels enter through random directions.
    """
    named = {
        name: tensor
        for name, tensor in backbone.net.named_parameters()
        if name.endswith("weight") and tensor.ndim > 1
    }
    sums = {name: torch.zeros_like(tensor) for name, tensor in named.items()}
    plain = Method(backbone).eval()
    backbone.net.requires_grad_(True)
    try:
        for image, label in islice(examples, MOST_EXAMPLES):
            loss = F.cross_entropy(plain(image), label)
            for name, gradient in zip(
                named, torch.autograd.grad(loss, list(named.values())), strict=True
            ):
                sums[name] += gradient.square()
    finally:
        backbone.net.requires_grad_(False)
        backbone.head.requires_grad_(True)
    return sums


PRUNINGS = {"magnitude": magnitude, "fisher": fisher}


def _copy_pruned(
    block: Any, small: Any, importance: Importance, kept: Tensor, *, tied: bool
) -> Tensor:
    """Copy one block's most important parts; returns the rows that its fc2 kept."""
    side = len(kept)
    attn, mlp = block.attn, block.mlp
    _copy_norm(block.norm1, small.norm1, kept)
    # query, key and value keep one set of rows: those with the largest sum of the products of
    # their importances, taken by logarithms since the products are too small for floats
    parts = importance["attn.qkv.weight"][:, kept].unflatten(0, (3, -1))
    inner = _top(parts.clamp_min(SMALLEST).log().sum(0).logsumexp(1), side)
    width = attn.qkv.in_features
    rows = torch.cat([inner + part * width for part in range(3)])
    _copy_linear(attn.qkv, small.attn.qkv, rows, kept)
    outer = kept if tied else _best_rows(importance["attn.proj.weight"], inner, side)
    _copy_linear(attn.proj, small.attn.proj, outer, inner)
    _copy_norm(block.norm2, small.norm2, outer)
    hidden = _best_rows(importance["mlp.fc1.weight"], outer, small.mlp.fc1.out_features)
    _copy_linear(mlp.fc1, small.mlp.fc1, hidden, outer)
    last = kept if tied else _best_rows(importance["mlp.fc2.weight"], hidden, side)
    _copy_linear(mlp.fc2, small.mlp.fc2, last, hidden)
    return last


def _best_rows(importance: Tensor, columns: Tensor, count: int) -> Tensor:
    return _top(importance[:, columns].sum(1), count)


def _top(scores: Tensor, count: int) -> Tensor:
    """Indices of the highest scores, in ascending order."""
    return scores.topk(count).indices.sort().values


def _below(importance: Importance, prefix: str) -> Importance:
    return {
        name.removeprefix(prefix): value
        for name, value in importance.items()
        if name.startswith(prefix)
    }


@torch.no_grad()
def _copy_linear(large: nn.Linear, small: nn.Linear, rows: Tensor, columns: Tensor) -> None:
    small.weight.copy_(large.weight[rows][:, columns])
    if large.bias is not None and small.bias is not None:
        small.bias.copy_(large.bias[rows])


@torch.no_grad()
def _copy_norm(large: nn.LayerNorm, small: nn.LayerNorm, kept: Tensor) -> None:
    small.weight.copy_(large.weight[kept])
    small.bias.copy_(large.bias[kept])
