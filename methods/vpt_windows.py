"""VPT on a Swin: prompts inside attention windows, https://arxiv.org/abs/2203.12119.

The authors' code (KMnP/vpt @ 4410440e) mixes the prompts of different images of a batch. Here
prompts are averaged over the windows of each image.
"""

from functools import partial
from typing import Any

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

from petlbench.errors import Unsupported
from petlbench.model.backbone import Backbone
from petlbench.model.block import PreNormBlock


class PromptedWindows(PreNormBlock):
    """A Swin block on (B, P + H W, C): P prompts before the patches, in every window.

    After attention each prompt is the mean of its copies over the windows. Relative positions and
    the mask of shifted windows have no entries for prompts: they are padded with zeros.
    """

    def __init__(self, block: nn.Module, prompts: int) -> None:
        super().__init__(block)
        self.prompts = prompts

    def attention(self, n: Tensor) -> Tensor:
        """(B, P + H W, C) -> (B, P + H W, C), window by window"""
        block, count = self.block, self.prompts
        (height, width), size = block.input_resolution, block.window_size
        prompts, patches = n[:, :count], n[:, count:].unflatten(1, (height, width))
        down, right = (-extent % side for extent, side in zip((height, width), size, strict=True))
        shift = tuple(block.shift_size)
        # In timm's order: shift, then pad to whole windows.
        patches = F.pad(patches.roll([-s for s in shift], (1, 2)), (0, 0, 0, right, 0, down))
        windows = window_partition(patches, size).flatten(1, 2).unflatten(0, (len(n), -1))
        copies = prompts[:, None].expand(-1, windows.shape[1], -1, -1)
        out = self.within(torch.cat([copies, windows], dim=2))  # (B, windows, P + area, C)
        areas = out[:, :, count:].flatten(0, 1).unflatten(1, size)
        padded = window_reverse(areas, size, height + down, width + right)  # (B, H', W', C)
        patches = padded[:, :height, :width].roll(shift, (1, 2)).flatten(1, 2)
        tokens = torch.cat([out[:, :, :count].mean(1), patches], dim=1)
        return block.drop_path1(tokens)  # type: ignore[no-any-return]

    def within(self, windows: Tensor) -> Tensor:
        """Attention inside each window: (B, windows, P + area, C) -> the same shape"""
        attn: Any = self.block.attn
        qkv = attn.qkv(windows).unflatten(-1, (3, attn.num_heads, -1))
        q, k, v = (part.transpose(2, 3) for part in qkv.unbind(3))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias().to(q.dtype))
        return attn.proj_drop(attn.proj(mixed.transpose(2, 3).flatten(3)))  # type: ignore[no-any-return]

    def _bias(self) -> Tensor:
        """Positions and mask: (heads, P + area, P + area), in shifted windows (windows, ...)"""
        # F.pad counts from the last dimension: columns on the left, then rows above.
        attn, pad = self.block.attn, (self.prompts, 0, self.prompts, 0)
        table = attn.relative_position_bias_table[attn.relative_position_index.flatten()]
        bias = F.pad(table.unflatten(0, (attn.window_area,) * 2).permute(2, 0, 1), pad)
        if self.block.attn_mask is None:
            return bias
        return bias + F.pad(self.block.attn_mask, pad)[:, None]


def has_windows(backbone: Backbone) -> bool:
    """Whether the blocks attend within windows.

    Raises Unsupported if the backbone is neither a plain ViT nor a Swin.
    """
    kinds = {type(block) for stage in backbone.stages for block in stage.blocks}
    if kinds not in ({Block}, {SwinTransformerBlock}):
        raise Unsupported(f"VPT supports plain ViTs and Swins only, not {backbone.tag}")
    return kinds == {SwinTransformerBlock}


def prompt_windows(backbone: Backbone, prompts: int) -> None:
    """Make blocks and patch merging of a Swin take prompts before the patches."""
    layers = backbone.net.layers
    for stage, before, layer in zip(backbone.stages[1:], layers, layers[1:], strict=False):
        grid = before.blocks[-1].input_resolution
        # A partial, not a closure: deepcopy and pickle follow it to the copy's module.
        stage.enter = partial(merged, layer.downsample, grid, prompts)
    backbone.swap_blocks(lambda block, width: PromptedWindows(block, prompts))


def merged(merging: PatchMerging, grid: tuple[int, int], prompts: int, z: Tensor) -> Tensor:
    """Patch merging, (B, P + H W, C) -> (B, P + H W / 4, 2 C): four copies of a prompt merge."""
    patches = merging(z[:, prompts:].unflatten(1, grid)).flatten(1, 2)
    copies = merging.reduction(merging.norm(z[:, :prompts].repeat(1, 1, 4)))
    return torch.cat([copies, patches], dim=1)
