"""Which layers of torch and timm have a form that keeps fewer bytes, or whose sums are steady."""

import timm.layers
from torch import nn

from petlbench.layers.linear import Linear
from petlbench.layers.norm import LayerNorm, LayerNorm2d, TimmLayerNorm

# Subclasses of torch's and timm's modules stay, since they may compute something else.
OURS: dict[type, type] = {
    nn.Linear: Linear,
    nn.LayerNorm: LayerNorm,
    timm.layers.LayerNorm: TimmLayerNorm,
    timm.layers.LayerNorm2d: LayerNorm2d,
}
PLAIN = {ours: plain for plain, ours in OURS.items()}


def lean(network: nn.Module) -> None:
    """Make linear layers and norms those of this package, in place; names and tensors stay."""
    for module in network.modules():
        module.__class__ = OURS.get(type(module), type(module))


def plain(network: nn.Module) -> None:
    """Make them those of torch and timm again, for a network that leaves this package."""
    for module in network.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
