"""VPT: Visual Prompt Tuning, https://arxiv.org/abs/2203.12119.

VPT-Shallow and VPT-Deep are presets: conf/method/vpt_shallow.yaml and vpt_deep.yaml. As in
KMnP/vpt @ 4410440e, except on a Swin (vpt_windows.py).
"""

import math
from typing import Self

import torch
from torch import Tensor, nn

from petlbench.checks import fraction, size
from petlbench.method import Method
from petlbench.methods.vpt_windows import has_windows, prompt_windows
from petlbench.model.backbone import Backbone


class VPT(Method):
    """P learned tokens between class token and patches: [x, P, E].

    Shallow (eq. 4): one set of prompts before the first block goes through all blocks. Deep
    (eq. 7): each block gets a set of its own in place of the outputs of the set before. On a Swin,
    as in the authors' code, the final mean over tokens includes the prompts, which a ViT leaves
    out, and the images of a batch share the dropout mask of all sets but the first.
    The frozen network stays in eval mode, so it drops no paths.
    """

    starts_as_pretrained = False
    unmergeable = "its prompts are tokens of their own"

    def __init__(self, backbone: Backbone, *, prompts: int, dropout: float, deep: bool) -> None:
        super().__init__(backbone)
        self.count = size("method.prompts", prompts)
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.windowed = has_windows(backbone)
        if self.windowed:
            prompt_windows(backbone, self.count)
        self.deep = deep
        stages = backbone.stages if deep else backbone.stages[:1]
        sets = {stage.first: len(stage.blocks) if deep else 1 for stage in stages}
        self.units = sum(sets.values())
        bound = start_bound(backbone)
        self.prompts = nn.ParameterDict(  # (sets, P, C) by the number of a stage's first block
            {
                str(stage.first): torch.empty(sets[stage.first], self.count, stage.width).uniform_(
                    -bound, bound
                )
                for stage in stages
            }
        )

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding -> last block: (B, N, C) in a ViT, (B, P + H W, C) in a Swin"""
        z = z.flatten(1, -2)  # (B, H, W, C) of a Swin -> (B, H W, C), which takes prompts
        z = self._deep(z) if self.deep else self._shallow(z)
        if self.windowed:
            return z
        prefix = self.backbone.tokens.prefix
        return torch.cat([z[:, :prefix], z[:, prefix + self.count :]], dim=1)

    def _shallow(self, z: Tensor) -> Tensor:
        """(B, N, C) -> (B, N + P, C)"""
        [prompts] = self.prompts[str(self.backbone.stages[0].first)]  # (1, P, C) -> (P, C)
        return super().features(self._prompted(z, prompts, present=0))

    def _deep(self, z: Tensor) -> Tensor:
        """(B, N, C) -> (B, N + P, C)"""
        present = 0
        for stage in self.backbone.stages:
            z = stage.enter(z)
            for prompts, block in zip(self.prompts[str(stage.first)], stage.blocks, strict=True):
                z = block(self._prompted(z, prompts, present))
                present = self.count
        return z

    def _prompted(self, z: Tensor, prompts: Tensor, present: int) -> Tensor:
        """(B, N, C), prompts (P, C) -> (B, N - present + P, C), in place of the `present` ones"""
        prefix = self.backbone.tokens.prefix
        if self.windowed and present:
            fresh = self.dropout(prompts).expand(z.shape[0], -1, -1)  # (B, P, C), one mask for all
        else:
            fresh = self.dropout(prompts.expand(z.shape[0], -1, -1))  # (B, P, C), a mask per image
        return torch.cat([z[:, :prefix], fresh, z[:, prefix + present :]], dim=1)

    def train(self, mode: bool = True) -> Self:
        """The backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()  # as in KMnP/vpt, which keeps the frozen encoder in eval mode
        return self


def start_bound(backbone: Backbone) -> float:
    """Prompts start uniformly within +- this bound: Xavier's, of the patch embedding.

    Its fans are 3 x patch area and width (KMnP/vpt, src/models/vit_prompt/vit.py).
    """
    area = math.prod(backbone.net.patch_embed.patch_size)
    # One bound for all stages of a Swin, from its first width, as in the authors' code.
    return math.sqrt(6 / (3 * area + backbone.widths[0]))
