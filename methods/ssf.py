"""SSF: Scaling & Shifting Your Features, https://arxiv.org/abs/2210.08823."""

import copy
from collections.abc import Mapping
from typing import Any, cast

from timm.layers import LayerNorm2d, RmsNorm2d
from torch import nn

from petlbench.errors import Unsupported
from petlbench.layers import NO_BIAS, ScaleShift
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.swap import swap

# Names inside a block, the same in timm's ViT and Swin.
IN_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
TRANSFORMER = ("*.patch_embed.proj", *(f"*.blocks.*.{name}" for name in IN_BLOCK))
CONVOLUTIONAL = (
    *("*.stem.0", "*.stem.1", "*.downsample.0", "*.downsample.1"),
    # `[0-9].norm` is the norm of a numbered block; head.norm, the final one, is added by name.
    *("*.conv_dw", "*[0-9].norm", "*.mlp.fc1", "*.mlp.fc2"),
)


class Transformed(nn.Sequential):
    """gamma op(x) + beta, with gamma and beta (C): op is a linear map, convolution or norm."""

    def folded(self) -> nn.Module:
        """The same kind of module: gamma W x + (gamma b + beta)."""
        op, pair = cast(Any, self[0]), cast(ScaleShift, self[1])
        if getattr(op, "bias", None) is None:
            raise Unsupported(NO_BIAS)
        plain = copy.deepcopy(op)
        # (out, 1, ...) beside a weight (out, in), (out, in, k, k) or (C).
        scale = pair.scale.view(-1, *[1] * (op.weight.ndim - 1))
        plain.weight = nn.Parameter((scale * op.weight).detach())
        plain.bias = nn.Parameter((pair.scale * op.bias + pair.shift).detach())
        return cast(nn.Module, plain)


class SSF(Method):
    """y = gamma x + beta, channel by channel, after every linear map and norm of the network.

    These are the layers of patch embedding (with its norm, in a Swin), blocks, and the final norm;
    in a ConvNeXt those of stem, downsampling and blocks, except ConvNeXt-V2's response norm.
    CLIP's norm before the blocks and SigLIP's attention pooling, which the authors' networks do
    not have, stay as they are. merge_norm: also after the norms of a Swin's patch merging, as in
    the paper; the authors' code never creates these pairs (dongzelian/SSF @ e94e0e70 compares a
    list with a name). gamma ~ N(1, 0.02^2) and beta ~ N(0, 0.02^2), so training does not start at
    the pre-trained network.
    """

    starts_as_pretrained = False

    def __init__(self, backbone: Backbone, *, merge_norm: bool) -> None:
        super().__init__(backbone)
        modules = dict(backbone.net.named_modules())
        convolutional = any(name.endswith(".conv_dw") for name in modules)
        final = next(name for name, module in modules.items() if module is backbone.norm)
        for glob in CONVOLUTIONAL if convolutional else TRANSFORMER:
            swap(backbone.net, glob, transformed)
        for name in (final, *_single_norms(modules, merge_norm)):
            swap(backbone.net, f".{name}", transformed)


def transformed(op: Any) -> Transformed:
    """`op`, with outputs (..., C) or (B, C, H, W), and its pair of gamma and beta."""
    channels = 1 if isinstance(op, nn.Conv2d | LayerNorm2d | RmsNorm2d) else -1
    return Transformed(op, ScaleShift(len(op.weight), channels))


def _single_norms(modules: Mapping[str, nn.Module], merge_norm: bool) -> list[str]:
    """Names of the norms in patch embedding and patch merging that get a pair."""
    merging = [name for name in modules if name.endswith("downsample.norm")] if merge_norm else []
    names = ["patch_embed.norm", *merging]
    # A plain ViT's patch_embed.norm is an Identity.
    return [name for name in names if isinstance(modules.get(name), nn.LayerNorm)]
