"""Backbones small enough for property tests; timm knows them as petlbench_vit and _swin."""

import copy
from typing import Any

import torch
from timm.models import register_model
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from petlbench.config.schema import BackboneConfig
from petlbench.model.backbone import Backbone, create

CLASSES = 5
SIZE = 16
POOLS = {
    "vit": "cls",
    "swin": "norm_then_mean",
    "dinov3": "norm_then_mean",
    "convnext": "patch_mean_then_norm",
}


@register_model
def petlbench_vit(
    *, num_classes: int, img_size: int, drop_path_rate: float, **_: Any
) -> VisionTransformer:
    """12 blocks of width 32, a class token and a 4 x 4 grid of patches at 16 px."""
    return VisionTransformer(
        img_size=img_size,
        patch_size=4,
        embed_dim=32,
        depth=12,
        num_heads=4,
        num_classes=num_classes,
        drop_path_rate=drop_path_rate,
    )


@register_model
def petlbench_swin(
    *, num_classes: int, img_size: int, drop_path_rate: float, **_: Any
) -> SwinTransformer:
    """Four stages of 2, 2, 6 and 2 blocks on grids of 16, 8, 4 and 2 at 16 px."""
    return SwinTransformer(
        img_size=img_size,
        patch_size=1,
        embed_dim=16,
        depths=(2, 2, 6, 2),
        num_heads=(1, 2, 4, 8),
        window_size=4,
        num_classes=num_classes,
        drop_path_rate=drop_path_rate,
    )


@register_model
def petlbench_dinov3(*, num_classes: int, img_size: int, drop_path_rate: float, **_: Any) -> Eva:
    """12 blocks with rotary positions and layer scale, a class token and two registers."""
    return Eva(
        img_size=img_size,
        patch_size=4,
        embed_dim=32,
        depth=12,
        num_heads=4,
        qkv_bias=False,
        init_values=0.5,
        rope_type="dinov3",
        rope_rotate_half=True,
        use_rot_pos_emb=True,
        use_abs_pos_emb=False,
        num_reg_tokens=2,
        use_fc_norm=False,
        dynamic_img_size=True,
        num_classes=num_classes,
        drop_path_rate=drop_path_rate,
    )


@register_model
def petlbench_convnext(*, num_classes: int, drop_path_rate: float, **others: Any) -> ConvNeXt:
    """Four stages of 2, 2, 6 and 2 blocks on grids of 16, 8, 4 and 2 at 16 px."""
    own = {key: value for key, value in others.items() if key == "img_size"}
    return ConvNeXt(
        patch_size=1,
        depths=(2, 2, 6, 2),
        dims=(16, 32, 64, 128),
        ls_init_value=0.5,
        num_classes=num_classes,
        drop_path_rate=drop_path_rate,
        **own,  # which no ConvNeXt takes
    )


def tiny(family: str, **changed: Any) -> Backbone:
    """A tiny `vit`, `swin`, `dinov3` or `convnext` with random weights, always the same.

    changed: values of the configuration, or `classes` and `image_size`. A copy of a network that
    was built once; the random state is afterwards as if it had just been built.
    """
    key = repr((family, sorted(changed.items()), torch.get_default_device()))
    if key not in _BUILT:
        torch.manual_seed(0)
        _BUILT[key] = (_build(family, **changed), torch.get_rng_state())
    network, state = _BUILT[key]
    torch.set_rng_state(state)
    return copy.deepcopy(network)


_BUILT: dict[str, tuple[Backbone, Tensor]] = {}


def _build(
    family: str, *, classes: int = CLASSES, image_size: int = SIZE, **changed: Any
) -> Backbone:
    return create(config(family, **changed), classes=classes, image_size=image_size)


def config(family: str, **changed: Any) -> BackboneConfig:
    """The configuration of a tiny network."""
    values: dict[str, Any] = {
        "name": f"petlbench_{family}",
        "pool": POOLS[family],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "drop_path": 0.0,
        "checkpoint": None,
        "fused_attention": True,
        "head_start": "small_normal",
        "pretrained": False,
    }
    return BackboneConfig(**values | changed)


# Default values that a network of width 16 or 32 has no room for, or a test no time.
SMALLER: dict[str, dict[str, Any]] = {
    "fact_tk": {"rank": 8},
    "bi_lora": {"rank": 8},
    "bi_adaptformer": {"rank": 8},
    "sct": {"channels": 4},
    "noah": {
        "budget_m": 0.05,
        "supernet_epochs": 1,
        "generations": 2,
        "population": 4,
        "parents": 2,
        "mutants": 1,
        "crossovers": 1,
    },
}


def images(count: int = 3) -> Tensor:
    """(count, 3, 16, 16), the same ones at each call."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
