"""Methods that use the rest of the interface, and two with a mistake of their author."""

import torch
from torch import Tensor, nn

from petlbench.method import Method, Step
from petlbench.model.backbone import Backbone


class Gain(Method):
    """Logits times a trained gain, which a term of the loss keeps near 1."""

    def __init__(self, backbone: Backbone, *, strength: float) -> None:
        super().__init__(backbone)
        self.strength = strength
        self.gain = nn.Parameter(torch.ones(()))
        self.updates = 0

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, K)"""
        return self.gain * super().forward(images)

    def extra_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor | None:
        """A penalty of the distance to 1."""
        return self.strength * (self.gain - 1).square()

    def after_step(self, step: Step) -> None:
        """Count the updates."""
        self.updates += 1


class SelfMerging(Gain):
    """Merges itself: the gain becomes part of the head."""

    def merge(self) -> nn.Module:
        """A plain timm network."""
        net = super().merge()
        head: nn.Linear = net.get_classifier()  # type: ignore[operator]
        with torch.no_grad():
            for tensor in head.parameters():
                tensor.mul_(self.gain)
        return net


class Principal(Gain):
    """Reads the weights as it is built: their largest singular value divides the strength."""

    needs_weights = True

    def __init__(self, backbone: Backbone, *, strength: float) -> None:
        super().__init__(backbone, strength=strength)
        weight = next(backbone.net.parameters()).detach().flatten(1)
        self.strength /= float(torch.linalg.svdvals(weight)[0])


class Unannounced(Principal):
    """Reads the weights, and does not say so: it cannot be tried on shapes."""

    needs_weights = False


class Buggy(Method):
    """Calls a head that does not exist."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> an AttributeError"""
        return self.backbone.haed(images)  # type: ignore[no-any-return,operator]
