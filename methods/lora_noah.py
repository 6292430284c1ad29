"""LoRA as NOAH's code has it: Neural Prompt Search, https://arxiv.org/abs/2206.04673.

One update of query, key and value through one down map (ZhangYuanhan-AI/NOAH @ e9c55f36), with as
many parameters as an update each for query and value. The scale s multiplies the update directly;
there is no alpha / r.
"""

from torch import nn

from petlbench.checks import fraction
from petlbench.layers import LowRank, Parallel, Scaled
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.swap import swap

INIT_STD = 0.02  # NOAH's model constructor draws all linear maps anew


class NOAHLoRA(Method):
    """W x + b + s B A dropout(x) in every block, with A (r, d) and B (3 d, r).

    A and B start from N(0, 0.02^2), so training does not start at the pre-trained network.
    """

    starts_as_pretrained = False

    def __init__(self, backbone: Backbone, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(backbone)
        updates: list[LowRank] = []

        def adapted(qkv: nn.Linear) -> nn.Module:
            """(..., d) -> (..., 3 d)"""
            update = LowRank(qkv.in_features, qkv.out_features, rank)
            updates.append(update)
            branch = nn.Sequential(nn.Dropout(fraction("method.dropout", dropout)), update)
            return Parallel(qkv, Scaled(scale, branch))

        swap(backbone, "*.attn.qkv", adapted)
        for update in updates:  # after all are built: the order of random draws of older runs
            for layer in (update.down, update.up):
                nn.init.trunc_normal_(layer.weight, std=INIT_STD)
