"""Folding what a method learned into the plain network, so that it costs nothing at inference."""

import copy
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from petlbench.errors import Unsupported
from petlbench.method import Method
from petlbench.model.drop_path import DropPath


@runtime_checkable
class Foldable(Protocol):
    """A module that stands in for a linear map or a norm, and can be one again."""

    def folded(self) -> nn.Module:
        """The plain module that computes the same in eval mode."""


def merged(method: Method) -> nn.Module:
    """A plain timm network, in eval mode, that computes what the method's network does.

    Its state loads into timm's own network, strictly; `global_pool` may be another than timm's
    default, as `backbone.pool` is. The method stays as it is. Raises Unsupported where the method
    cannot be folded, with the reason.
    """
    name = type(method).__name__
    if method.unmergeable:
        raise Unsupported(f"{name} cannot be merged into its backbone: {method.unmergeable}")
    net = cast(nn.Module, copy.deepcopy(method.backbone.net)).eval()
    try:
        _fold(net)
    except Unsupported as error:
        raise Unsupported(
            f"{name} cannot be merged into {method.backbone.tag}: {error}"
        ) from error
    if method.backbone.pool == "norm_then_mean" and hasattr(net, "global_pool"):
        cast(Any, net).global_pool = "avg"  # of the normalised patches
    _check_same(net, method)
    return net.requires_grad_(False)


def _check_same(net: nn.Module, method: Method) -> None:
    """Refuse what the plain network cannot say, by the outputs for one image."""
    training = method.training
    try:
        with torch.no_grad():
            image = method.backbone.example()
            expected, found = method.eval()(image), net(image)
    finally:
        method.train(training)
    if not torch.allclose(found, expected, rtol=0, atol=1e-2 * float(expected.abs().max())):
        raise Unsupported(
            f"{type(method).__name__} cannot be merged into {method.backbone.tag}: that network "
            f"alone gives other outputs; it pools otherwise than backbone.pool="
            f"{method.backbone.pool}, or something was learned outside its layers"
        )


def _fold(parent: nn.Module) -> None:
    for name, module in list(parent.named_children()):
        if isinstance(module, Foldable):
            setattr(parent, name, module.folded())
        elif isinstance(module, DropPath):
            setattr(parent, name, nn.Identity())
        else:
            _fold(module)
