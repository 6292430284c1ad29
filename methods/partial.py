"""Partial: Visual Prompt Tuning (its baseline Partial-k), https://arxiv.org/abs/2203.12119.

Preset: Partial-1, conf/method/partial_1.yaml.
"""

from petlbench.checks import whole
from petlbench.method import Method
from petlbench.model.backbone import Backbone


class Partial(Method):
    """Trains the last `blocks` blocks, the final norm and the head; adds no tensor.

    As in KMnP/vpt @ 7f3942e4 (src/models/vit_models.py). Patch merging between two of the blocks
    is trained too. The blocks before them are constant, so training may replay their outputs. An
    attention pooling (SigLIP) stays frozen.
    """

    def __init__(self, backbone: Backbone, *, blocks: int) -> None:
        super().__init__(backbone)
        whole("method.blocks", blocks, low=1, high=backbone.depth, of="the network's depth")
        first = backbone.depth - blocks + 1  # numbers count from 1 over all stages
        for stage in backbone.stages:
            if stage.first > first:
                stage.entry.own().requires_grad_(True)
            for number, slot in enumerate(stage.blocks.slots, stage.first):
                if number >= first:
                    slot.own().requires_grad_(True)
        backbone.norm.requires_grad_(True)
