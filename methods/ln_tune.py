"""LN-Tune: Strong Baselines for Parameter-Efficient Few-Shot Fine-Tuning,
https://arxiv.org/abs/2304.01917.
"""

from torch import nn

from petlbench.errors import Unsupported
from petlbench.method import Method
from petlbench.model.backbone import Backbone


class LNTune(Method):
    """Trains weight and bias of every LayerNorm and adds no tensor."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        # All of them, also the final one and those of patch embedding and patch merging.
        norms = [module for module in backbone.net.modules() if isinstance(module, nn.LayerNorm)]
        if not norms:
            raise Unsupported(f"LN-Tune trains LayerNorms, but {backbone.tag} has none")
        for norm in norms:
            norm.requires_grad_(True)
