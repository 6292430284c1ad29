"""Pooling in timm's own forward pass, which `global_pool` and the place of the final norm set."""

from typing import Any

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

# The argument by which timm puts the final norm behind the pooling, and not in front of it.
NORM_AFTER: dict[type[Any], str] = {VisionTransformer: "fc_norm", Eva: "use_fc_norm"}
PLACES = {  # backbone.pool -> global_pool, and whether the norm comes after it (None: equal)
    "cls": ("token", None),
    "norm_then_mean": ("avg", False),
    "patch_mean_then_norm": ("avg", True),
}


def set_pooling(net: Any, pool: str) -> dict[str, Any]:
    """Let the forward pass of a timm network pool as `backbone.pool` says.

    Returns the arguments that let timm build such a network. Networks that pool in one way only
    (Swin, ConvNeXt, attention pooling) stay as they are and need none.
    """
    keyword = next((key for kind, key in NORM_AFTER.items() if isinstance(net, kind)), None)
    if keyword is None or pool not in PLACES:
        return {}
    is_after = norm_is_after_pooling(net)
    global_pool, after = PLACES[pool]
    if after is not None and after != is_after:
        net.norm, net.fc_norm = net.fc_norm, net.norm
        is_after = after
    net.global_pool = global_pool
    return {"global_pool": global_pool, keyword: is_after}


def norm_is_after_pooling(net: Any) -> bool:
    """Whether a ViT has its final norm as `fc_norm`, behind the pooling."""
    return any(isinstance(net, kind) and isinstance(net.norm, nn.Identity) for kind in NORM_AFTER)
