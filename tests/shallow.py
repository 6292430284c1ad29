"""A ViT of three blocks, which timm knows as petlbench_shallow: four times as fast as vit_mini.

Tests that count on shapes take time for each operation, however small its tensors are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer

from petlbench import registry
from petlbench.config.schema import Config
from petlbench.method import Method
from petlbench.model import weights
from petlbench.model.backbone import create
from petlbench.model.vit_mini import CONFIG, SIZES
from petlbench.testing.networks import CLASSES, SIZE
from tests.settings import vit_mini

BLOCKS = 3
CREATE = timm.create_model
NAME = "petlbench_shallow"
# in a configuration of vit_mini, whose size of images it takes
OVERRIDES = [f"backbone.name={NAME}", "backbone.pretrained=false"]


@register_model
def petlbench_shallow(
    pretrained: bool = False, *, pretrained_cfg: dict[str, Any] | None = None, **kwargs: Any
) -> VisionTransformer:
    """Three blocks as those of vit_mini, of width 96."""
    return build_model_with_cfg(
        VisionTransformer,
        NAME,
        pretrained,
        pretrained_cfg=pretrained_cfg or CONFIG | {"architecture": NAME},
        **SIZES | {"depth": BLOCKS} | kwargs,
    )


@contextmanager
def packaged(folder: Path) -> Iterator[None]:
    """Weights of this network in the package, for commands that make a network from a delta."""
    torch.manual_seed(0)
    net = petlbench_shallow(num_classes=1)
    path, real = folder / f"{NAME}.safetensors", weights._packaged
    save_file(net.state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "_packaged", lambda name: path if name == NAME else real(name))
        yield


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
    return replace(config, backbone=vit_mini(name=NAME, pretrained=False))


def shallow_method(
    name: str, drop_path: float = 0.0, *, classes: int = 2, size: int = 48, **values: Any
) -> Method:
    """A method on this network, the same at each call; values: of the method."""
    torch.manual_seed(0)
    config = vit_mini(name=NAME, drop_path=drop_path, pretrained=False)
    return registry.create(name, create(config, classes=classes, image_size=size), **values)


def tiny_shallow_method(name: str, drop_path: float = 0.0, **values: Any) -> Method:
    """The same for the images and classes of tiny networks."""
    return shallow_method(name, drop_path, classes=CLASSES, size=SIZE, **values)
