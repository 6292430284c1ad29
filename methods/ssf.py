"""SSF: Scaling & Shifting Your Features, https://arxiv.org/abs/2210.08823."""

import copy
from typing import Any, cast

from torch import nn

from petlbench.backbone import Backbone
from petlbench.interface import Method
from petlbench.leaves import ScaleShift
from petlbench.surgery import swap

LINEARS = ("*.attn.qkv", "*.attn.proj", "*.mlp.fc1", "*.mlp.fc2")
NORMS = ("*.norm1", "*.norm2")


class Transformed(nn.Sequential):
    """A linear map, convolution or norm with its scale and shift behind it."""

    def folded(self) -> nn.Module:
        """The same kind of module: gamma W x + (gamma b + beta)."""
        op, pair = cast(Any, self[0]), cast(ScaleShift, self[1])
        plain = copy.deepcopy(op)
        bias = pair.shift if op.bias is None else pair.scale * op.bias + pair.shift
        scale = pair.scale.view(-1, *[1] * (op.weight.ndim - 1))
        plain.weight = nn.Parameter((scale * op.weight).detach())
        plain.bias = nn.Parameter(bias.detach())
        return cast(nn.Module, plain)


class SSF(Method):
    """y = gamma x + beta, channel by channel, behind every linear map and norm of the network.

    Where the patch embedding has a norm (Swin), it gets a pair too. `merge_norm` adds the norms of
    a Swin's patch merging, which the paper means and the authors' code never creates
    (dongzelian/SSF @ e94e0e70 passes a list where a name is compared). gamma ~ N(1, 0.02^2) and
    beta ~ N(0, 0.02^2), so training does not start at the pre-trained network.
    """

    starts_as_pretrained = False

    def __init__(self, backbone: Backbone, *, merge_norm: bool) -> None:
        super().__init__(backbone)
        net = backbone.net
        swap(net, "*.patch_embed.proj", lambda op: Transformed(op, ScaleShift(op.out_channels, 1)))
        for glob in LINEARS:
            swap(net, glob, lambda op: Transformed(op, ScaleShift(op.out_features)))
        for glob in (*NORMS, *_single_norms(backbone, merge_norm)):
            swap(net, glob, lambda op: Transformed(op, ScaleShift(op.normalized_shape[0])))


def _single_norms(backbone: Backbone, merge_norm: bool) -> list[str]:
    """Names of the final norm, and of those in patch embedding and merging that get a pair."""
    modules = dict(backbone.net.named_modules())
    final = next(name for name, module in modules.items() if module is backbone.norm)
    merging = [name for name in modules if name.endswith("downsample.norm")] if merge_norm else []
    names = [final, "patch_embed.norm", *merging]
    return [f".{name}" for name in names if isinstance(modules.get(name), nn.LayerNorm)]
