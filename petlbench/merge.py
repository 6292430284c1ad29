"""Merging a method into its backbone: a plain timm network with no extra cost at inference."""

from typing import Any, cast

import torch
from torch import nn

from petlbench.errors import Unsupported
from petlbench.method import Method

TOLERANCE = 1e-2  # of the largest logit: a wrong merge differs by more, rounding by far less


def merged(method: Method) -> nn.Module:
    """A plain timm network, in eval mode, with the outputs of the method.

    Its state loads strictly into timm's own network, whose `global_pool` must match
    `backbone.pool`. The method itself does not change. Raises Unsupported, with the reason, if
    the method cannot be merged or the outputs for one image differ.
    """
    name = type(method).__name__
    if method.unmergeable:
        raise Unsupported(f"{name} cannot be merged into its backbone: {method.unmergeable}")
    try:
        net = method.merge().eval()
    except Unsupported as error:
        raise Unsupported(
            f"{name} cannot be merged into {method.backbone.tag}: {error}"
        ) from error
    if method.backbone.pool == "norm_then_mean" and hasattr(net, "global_pool"):
        cast(Any, net).global_pool = "avg"  # of the normalised patches
    _check_outputs(net, method)
    return net.requires_grad_(False)


def _check_outputs(net: nn.Module, method: Method) -> None:
    training = method.training
    try:
        with torch.no_grad():
            image = method.backbone.example()
            expected, logits = method.eval()(image), net(image)
    finally:
        method.train(training)
    bound = TOLERANCE * float(expected.abs().max())
    if not torch.allclose(logits, expected, rtol=0, atol=bound):
        raise Unsupported(
            f"{type(method).__name__} cannot be merged into {method.backbone.tag}: the plain "
            "network has other outputs, because it cannot pool as "
            f"backbone.pool={method.backbone.pool} or because something was learned outside its "
            "layers"
        )
