"""Full fine-tuning: trains every weight of the backbone; the upper end of the cost."""

from petlbench.method import Method
from petlbench.model.backbone import Backbone


class Full(Method):
    """Trains all parameters."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        backbone.requires_grad_(True)
