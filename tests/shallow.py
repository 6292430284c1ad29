"""A ViT of three blocks, which timm knows as petlbench_shallow: four times as fast as vit_mini.

Tests that count on shapes take time for each operation, however small its tensors are.
"""

from typing import Any

import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from petlbench import registry
from petlbench.method import Method
from petlbench.model.backbone import create
from petlbench.testing.networks import CLASSES, SIZE
from tests.settings import vit_mini

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


def shallow_method(
    name: str, drop_path: float = 0.0, *, classes: int = 2, size: int = 48, **values: Any
) -> Method:
    """A method on this network, the same at each call; values: of the method."""
    torch.manual_seed(0)
    config = vit_mini(name="petlbench_shallow", drop_path=drop_path, pretrained=False)
    return registry.create(name, create(config, classes=classes, image_size=size), **values)


def tiny_shallow_method(name: str, drop_path: float = 0.0, **values: Any) -> Method:
    """The same for the images and classes of tiny networks."""
    return shallow_method(name, drop_path, classes=CLASSES, size=SIZE, **values)
