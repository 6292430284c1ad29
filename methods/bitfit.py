"""BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models,
https://arxiv.org/abs/2106.10199.
"""

from petlbench.method import Method
from petlbench.model.backbone import Backbone


class BitFit(Method):
    """Trains all biases of the backbone and adds no tensor.

    include_relpos: also the tables of relative position biases of a Swin. Their names contain
    "bias", and the published 0.20 M on Swin-B counts them.
    """

    def __init__(self, backbone: Backbone, *, include_relpos: bool) -> None:
        super().__init__(backbone)
        ends = ("bias", ".relative_position_bias_table") if include_relpos else ("bias",)
        # By name, as V-PETL Bench selects them: its rule takes every name that contains "bias".
        for name, parameter in backbone.net.named_parameters():
            if name.endswith(ends):
                parameter.requires_grad_(True)
