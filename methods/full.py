"""Full fine-tuning: every weight of the backbone is trained."""

from petlbench.method import Method
from petlbench.model.backbone import Backbone


class Full(Method):
    """All parameters trained; the upper end of cost."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        backbone.requires_grad_(True)
