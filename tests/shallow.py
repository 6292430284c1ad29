"""A ViT of three blocks, which timm knows as petlbench_shallow: four times as fast as vit_mini.

Tests that count on shapes take time for each operation, however small its tensors are.
"""

from dataclasses import replace
from typing import Any

import timm
import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from petlbench import registry
from petlbench.config.schema import Config
from petlbench.method import Method
from petlbench.model.backbone import create
from petlbench.testing.networks import CLASSES, SIZE
from tests.settings import vit_mini

BLOCKS = 3
CREATE = timm.create_model
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


# few blocks and channels for timm's networks, by the start of their names
NARROW: dict[str, dict[str, Any]] = {
    **{
        start: {"embed_dim": 48, "depth": 2, "num_heads": 4} for start in ("vit_", "deit", "eva02")
    },
    "swin": {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)},
    "convnext": {"dims": (8, 16, 32, 64), "depths": (1, 1, 2, 1)},
}


def narrow(name: str, **options: Any) -> Any:
    """timm.create_model of a network with few blocks and channels; small ones are as they are."""
    changed = next((NARROW[start] for start in NARROW if name.startswith(start)), {})
    return CREATE(name, **options, **changed)


def shallow(config: Config) -> Config:
    """A configuration of vit_mini with this network in its place."""
    return replace(config, backbone=vit_mini(name="petlbench_shallow", pretrained=False))


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
