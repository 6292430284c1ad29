"""vit_mini: the embedded suite's backbone, registered with timm."""

from typing import Any

from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

SIZES = {"img_size": 48, "patch_size": 8, "embed_dim": 96, "depth": 12, "num_heads": 3}
# Without one timm warns at each build; the weights are found by petlbench/model/weights.py.
CONFIG = {"architecture": "vit_mini", "input_size": (3, 48, 48), "classifier": "head"}
# by which timm builds such a network without an import of this package
TIMMS_OWN = ("vit_tiny_patch16_224", SIZES)


@register_model
def vit_mini(
    pretrained: bool = False, *, pretrained_cfg: dict[str, Any] | None = None, **kwargs: Any
) -> VisionTransformer:
    """12 blocks of width 96 on 8 px patches of 48 px images."""
    return build_model_with_cfg(
        VisionTransformer,
        "vit_mini",
        pretrained,
        pretrained_cfg=pretrained_cfg or CONFIG,
        pretrained_filter_fn=checkpoint_filter_fn,
        **SIZES | kwargs,
    )
