"""vit_mini: the embedded suite's backbone, registered with timm."""

from typing import Any

from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer


@register_model
def vit_mini(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """12 blocks of width 96 on 8 px patches of 48 px images."""
    sizes = {"img_size": 48, "patch_size": 8, "embed_dim": 96, "depth": 12, "num_heads": 3}
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)  # timm.create_model passes these to the function, not to the class
    return VisionTransformer(**sizes | kwargs)
