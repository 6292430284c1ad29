"""Folding modules that stand in for linear maps and norms back into plain ones."""

from typing import Protocol, runtime_checkable

from torch import nn

from petlbench.layers.lean import plain
from petlbench.layers.quantised import dequantise
from petlbench.model.drop_path import DropPath
from petlbench.model.template import Template


@runtime_checkable
class Foldable(Protocol):
    """A module that stands in for a linear map or a norm and can become one again."""

    def folded(self) -> nn.Module:
        """The plain module with the same outputs in eval mode."""


def folded(net: nn.Module) -> nn.Module:
    """A copy of a network, in eval mode, with every `Foldable` module folded.

    Drop paths, which do nothing in eval mode, become identities; other layers are those of torch
    and timm. Raises Unsupported if a module cannot be folded.
    """
    network = Template(net).copy().eval()
    dequantise(network)  # first: what is folded may read weights and set them
    _fold(network)
    plain(network)
    return network


def _fold(parent: nn.Module) -> None:
    for name, module in list(parent.named_children()):  # a list, since the loop sets children
        if isinstance(module, Foldable):
            setattr(parent, name, module.folded())
        elif isinstance(module, DropPath):
            setattr(parent, name, nn.Identity())
        else:
            _fold(module)
