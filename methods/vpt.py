"""VPT: Visual Prompt Tuning, https://arxiv.org/abs/2203.12119.

VPT-Shallow and VPT-Deep are presets: conf/method/vpt_shallow.yaml and vpt_deep.yaml. As in
KMnP/vpt @ 4410440e, but for a Swin, where that code mixes the prompts of different images of a
batch: here they are averaged over the windows of each image.
"""

import math
from functools import partial
from typing import Any, Self

import torch
from timm.models.swin_transformer import (
    PatchMerging,
    SwinTransformerBlock,
    window_partition,
    window_reverse,
)
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, whole
from petlbench.errors import Unsupported
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.block import OpenBlock
from petlbench.model.stage import Stage


class PromptedWindows(OpenBlock):
    """A Swin block on (B, P + H W, C): P prompts before the patches, in every window.

    After attention each prompt is the mean over the windows. Relative positions and the mask of
    shifted windows know no prompts: they are padded with zeros.
    """

    def __init__(self, block: nn.Module, prompts: int) -> None:
        super().__init__(block)
        self.prompts = prompts

    def attention(self, n: Tensor) -> Tensor:
        """(B, P + H W, C) -> the same, window by window"""
        block, count = self.block, self.prompts
        (height, width), size = block.input_resolution, block.window_size
        prompts, patches = n[:, :count], n[:, count:].unflatten(1, (height, width))
        down, right = (-extent % side for extent, side in zip((height, width), size, strict=True))
        shift = tuple(block.shift_size)
        patches = F.pad(patches.roll([-s for s in shift], (1, 2)), (0, 0, 0, right, 0, down))
        windows = window_partition(patches, size).flatten(1, 2).unflatten(0, (len(n), -1))
        beside = prompts[:, None].expand(-1, windows.shape[1], -1, -1)
        out = self.within(torch.cat([beside, windows], dim=2))
        whole_map = window_reverse(
            out[:, :, count:].flatten(0, 1).unflatten(1, size),
            size,
            height + down,
            width + right,
        )
        back = whole_map[:, :height, :width].roll(shift, (1, 2)).flatten(1, 2)
        return block.drop_path1(  # type: ignore[no-any-return]
            torch.cat([out[:, :, :count].mean(1), back], dim=1)
        )

    def within(self, windows: Tensor) -> Tensor:
        """Attention inside each window: (B, windows, P + area, C) -> the same"""
        attn: Any = self.block.attn
        qkv = attn.qkv(windows).unflatten(-1, (3, attn.num_heads, -1))
        q, k, v = (part.transpose(2, 3) for part in qkv.unbind(3))
        area, pad = attn.window_area, (self.prompts, 0, self.prompts, 0)
        table = attn.relative_position_bias_table[attn.relative_position_index.flatten()]
        bias = F.pad(table.unflatten(0, (area, area)).permute(2, 0, 1), pad)
        if self.block.attn_mask is not None:
            bias = bias + F.pad(self.block.attn_mask, pad)[:, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return attn.proj_drop(attn.proj(mixed.transpose(2, 3).flatten(3)))  # type: ignore[no-any-return]


def merged(merging: PatchMerging, grid: tuple[int, int], prompts: int, z: Tensor) -> Tensor:
    """Patch merging with prompts before the patches: each prompt is merged with three copies."""
    patches = merging(z[:, prompts:].unflatten(1, grid)).flatten(1, 2)
    copies = merging.reduction(merging.norm(z[:, :prompts].repeat(1, 1, 4)))
    return torch.cat([copies, patches], dim=1)


class VPT(Method):
    """Learned tokens between class token and patches, before the first block or before each.

    Shallow: one set of prompts goes through all blocks. Deep: each block finds a set of its own in
    their place. The final mean over a Swin's tokens includes the prompts, as in the authors' code;
    a ViT leaves them out. The frozen network stays in eval mode, so it drops no paths.
    """

    starts_as_pretrained = False
    unmergeable = "its prompts are tokens of their own"

    def __init__(self, backbone: Backbone, *, prompts: int, dropout: float, deep: bool) -> None:
        super().__init__(backbone)
        self.count = whole("prompts", prompts, low=1)
        self.dropout = nn.Dropout(fraction("dropout", dropout))
        self.windowed = _has_windows(backbone)
        if self.windowed:
            _prompt_windows(backbone, self.count)
        stages = backbone.stages
        sets = {s.first: len(s.blocks) for s in stages} if deep else {stages[0].first: 1}
        self.units = sum(sets.values())
        area = math.prod(backbone.net.patch_embed.patch_size)
        bound = math.sqrt(6 / (3 * area + stages[0].width))
        self.prompts = nn.ParameterDict(
            {
                str(stage.first): torch.empty(sets[stage.first], self.count, stage.width).uniform_(
                    -bound, bound
                )
                for stage in stages
                if stage.first in sets
            }
        )

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding to last block; (B, P + H W, C) at the end of a Swin."""
        prefix, present = self.backbone.tokens.prefix, 0
        z = z.flatten(1, -2)
        for stage in self.backbone.stages:
            z = stage.enter(z)
            for fresh, block in zip(self.sets(stage), stage.blocks, strict=True):
                if fresh is not None:
                    prompts = self.dropout(fresh.expand(len(z), -1, -1))
                    z = torch.cat([z[:, :prefix], prompts, z[:, prefix + present :]], dim=1)
                    present = self.count
                z = block(z)
        if self.windowed:
            return z
        return torch.cat([z[:, :prefix], z[:, prefix + present :]], dim=1)

    def sets(self, stage: Stage) -> list[Tensor | None]:
        """The prompts (P, C) that each block of a stage is given, None where they go on."""
        key = str(stage.first)
        own = list(self.prompts[key]) if key in self.prompts else []
        return own + [None] * (len(stage.blocks) - len(own))

    def train(self, mode: bool = True) -> Self:
        """The backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self


def _has_windows(backbone: Backbone) -> bool:
    kinds = {type(block) for stage in backbone.stages for block in stage.blocks}
    if kinds not in ({Block}, {SwinTransformerBlock}):
        raise Unsupported(f"VPT adds tokens, for which the blocks of {backbone.tag} have no place")
    return kinds == {SwinTransformerBlock}


def _prompt_windows(backbone: Backbone, prompts: int) -> None:
    layers = backbone.net.layers
    for stage, before, layer in zip(backbone.stages[1:], layers, layers[1:], strict=False):
        grid = before.blocks[-1].input_resolution
        stage.enter = partial(merged, layer.downsample, grid, prompts)
    backbone.swap_blocks(lambda block, width: PromptedWindows(block, prompts))
