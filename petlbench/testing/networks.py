"""Networks to test methods on: tiny ones with random weights, and full-size ones in shapes only.

timm knows the tiny ones as petlbench_vit, petlbench_swin, petlbench_dinov3, petlbench_convnext and
petlbench_wide.
"""

from functools import cache
from typing import Any

import timm
import torch
from timm.models import register_model
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petlbench.config import options
from petlbench.config.nodes import BackboneConfig
from petlbench.model.backbone import Backbone, create
from petlbench.model.template import Template

CLASSES = 5
SIZE = 16  # px
PATCH = 4  # px, in the two plain ones and the wide one
POOLS = {
    "vit": "cls",
    "swin": "norm_then_mean",
    "dinov3": "norm_then_mean",
    "convnext": "patch_mean_then_norm",
}
FAMILIES = tuple(POOLS)
FULL_SIZE = {  # an option of conf/backbone for each family
    "vit": "vit_b16",
    "swin": "swin_b",
    "dinov3": "dinov3_b16",
    "convnext": "convnext_b",
}
WIDE = 128  # channels: enough draws to tell distributions apart


@register_model
def petlbench_vit(**options: Any) -> VisionTransformer:
    """12 blocks of width 32, a class token and a 4 x 4 grid of patches at 16 px."""
    return _plain_vit(32, **options)


@register_model
def petlbench_wide(**options: Any) -> VisionTransformer:
    """The same with width 128."""
    return _plain_vit(WIDE, **options)


def _plain_vit(
    width: int,
    *,
    num_classes: int,
    img_size: int,
    drop_path_rate: float,
    global_pool: Any = "token",
    fc_norm: bool | None = None,
    **_: Any,
) -> VisionTransformer:
    return VisionTransformer(
        img_size=img_size,
        patch_size=PATCH,
        embed_dim=width,
        depth=12,
        num_heads=4,
        num_classes=num_classes,
        drop_path_rate=drop_path_rate,
        global_pool=global_pool,
        fc_norm=fc_norm,
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
    size = {key: value for key, value in others.items() if key == "img_size"}
    return ConvNeXt(
        patch_size=1,
        depths=(2, 2, 6, 2),
        dims=(16, 32, 64, 128),
        ls_init_value=0.5,  # timm's 1e-6 would leave branches too small to test
        num_classes=num_classes,
        drop_path_rate=drop_path_rate,
        **size,  # refused by ConvNeXt: petlbench then builds it for all sizes
    )


def tiny(family: str, **changed: Any) -> Backbone:
    """A tiny `vit`, `swin`, `dinov3` or `convnext` with the same random weights at each call.

    changed: values of the configuration, or `classes` and `image_size`. A copy of a network that
    is built once; torch's random state is set to the one after it was built.
    """
    # A network built under torch.device("meta") is another one.
    key = repr((family, sorted(changed.items()), torch.get_default_device()))
    if key not in _BUILT:
        torch.manual_seed(0)
        _BUILT[key] = (Template(_build(family, **changed)), torch.get_rng_state())
    network, state = _BUILT[key]
    torch.set_rng_state(state)
    return network.copy()


_BUILT: dict[str, tuple[Template[Backbone], Tensor]] = {}


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
        "weights": "fp32",
        "pretrained": False,
    }
    return BackboneConfig(**values | changed)


def full_size(option: str, classes: int = 100, device: str = "meta") -> Backbone:
    """An option of conf/backbone, with random weights if the device is not meta."""
    return _full_size(option, classes, device).copy()


@cache
def _full_size(option: str, classes: int, device: str) -> Template[Backbone]:
    content = options.content("backbone", option)
    values = {"pool": "norm_then_mean", "drop_path": 0.1} | content.get("backbone", content)
    size = content.get("input", {}).get("size", 224)
    with torch.device(device):
        return Template(create(config("vit", **values), classes=classes, image_size=size))


def timm_network(family: str) -> nn.Module:
    """The tiny network as timm builds it, in eval mode."""
    return _timm_network(family).copy()


@cache
def _timm_network(family: str) -> Template[nn.Module]:
    size: dict[str, Any] = {} if family == "convnext" else {"img_size": SIZE}
    network: nn.Module = timm.create_model(
        f"petlbench_{family}", num_classes=CLASSES, drop_path_rate=0.0, **size
    )
    return Template(network.eval())


def images(count: int = 3) -> Tensor:
    """(count, 3, 16, 16), the same at each call."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
