"""A ViT of three blocks, which timm knows as petlbench_shallow: for tests that count on shapes.

Such a test takes time for each operation, however small its tensors are.
"""

from typing import Any

from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

BLOCKS = 3
# in a configuration of vit_mini, whose size of images it takes
OVERRIDES = ["backbone.name=petlbench_shallow", "backbone.pretrained=false"]


@register_model
def petlbench_shallow(
    *, num_classes: int, img_size: int, drop_path_rate: float, **_: Any
) -> VisionTransformer:
    """Three blocks as those of vit_mini, of width 96."""
    return VisionTransformer(
        img_size=img_size,
        patch_size=8,
        embed_dim=96,
        depth=BLOCKS,
        num_heads=3,
        num_classes=num_classes,
        drop_path_rate=drop_path_rate,
    )
