"""Full fine-tuning: every weight of the backbone is trained."""

from petlbench.backbone import Backbone
from petlbench.interface import Method


class Full(Method):
    """All parameters trained; the upper end of cost."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        backbone.requires_grad_(True)
