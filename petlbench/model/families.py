"""Where a timm network has its parts: one class a family, found by `dissect`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.eva import Eva
from torch import Tensor, nn

from petlbench.errors import Unsupported, UserError
from petlbench.model.block import ChannelsLast, WithRope
from petlbench.model.tokens import Tokens

Block = Callable[[Tensor], Tensor]

TOKENS = ("patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre")


@dataclass
class Stage:
    """Blocks of one width. `blocks` may be edited; the parameters live in `Backbone.net`."""

    first: int  # number of its first block, from 1
    enter: Block  # patch merging (in a Swin, timm merges at the start of a stage), or identity
    blocks: list[Block]
    width: int


class Anatomy(ABC):
    """What the walk over a network needs: embedding, stages, norm, and how they fit together.

    `parts` are the names of what the walk runs; a network with parameters elsewhere is refused.
    The methods that have a body hold for transformers with a patch embedding.
    """

    parts: tuple[str, ...]

    def __init__(self, net: nn.Module) -> None:
        self.net: Any = net

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the network."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> z, the input of the first stage"""

    @property
    def norm(self) -> nn.Module:
        """The final norm; timm calls it fc_norm in networks made for average pooling."""
        first = self.net.norm
        return cast(nn.Module, self.net.fc_norm if isinstance(first, nn.Identity) else first)

    def tokens(self, image_size: int) -> Tokens:
        """How the output of `embed` is laid out."""
        grid = getattr(self.net.patch_embed, "grid_size", None)
        if grid is None:
            raise Unsupported("its patches lie on no grid of known size")
        return Tokens(getattr(self.net, "num_prefix_tokens", 0), tuple(grid))

    def normalised(self, norm: nn.Module, z: Tensor) -> Tensor:
        """`norm` on tokens (B, ..., C) or on a pooled vector (B, C)."""
        return cast(Tensor, norm(z))

    def features(self, z: Tensor) -> Tensor:
        """What the network's own `forward_features` makes of the output of its last block."""
        return cast(Tensor, self.net.norm(z))

    def _stages(self, parts: Iterable[tuple[Block, list[Block]]]) -> tuple[Stage, ...]:
        stages: list[Stage] = []
        first = 1
        for (enter, blocks), info in zip(parts, self.net.feature_info, strict=False):
            stages.append(Stage(first, enter, blocks, info["num_chs"]))
            first += len(blocks)
        return tuple(stages)


class ViT(Anatomy):
    """One stage of blocks; z is (B, N, C), with the prefix tokens first."""

    parts = ("blocks", "head", "attn_pool", *TOKENS)

    def stages(self) -> tuple[Stage, ...]:
        return self._stages([(nn.Identity(), list(self.net.blocks))])

    def embed(self, images: Tensor) -> Tensor:
        z = self.net._pos_embed(self.net.patch_embed(images))
        return cast(Tensor, self.net.norm_pre(self.net.patch_drop(z)))


class Rotary(ViT):
    """A ViT whose blocks are given rotary positions at each call (EVA-02, DINOv3)."""

    def stages(self) -> tuple[Stage, ...]:
        net = self.net
        if getattr(net, "rope", None) is None:
            return super().stages()
        shape = {"shape": net.patch_embed.grid_size} if net.dynamic_img_size else {}
        rope = partial(net.rope.get_embed, **shape)
        return self._stages([(nn.Identity(), [WithRope(block, rope) for block in net.blocks])])

    def embed(self, images: Tensor) -> Tensor:
        net = self.net
        return cast(Tensor, net.norm_pre(net._pos_embed(net.patch_embed(images))[0]))


class Swin(Anatomy):
    """Stages in `layers`; z is (B, H, W, C)."""

    parts = ("patch_embed", "layers", "head")

    def stages(self) -> tuple[Stage, ...]:
        return self._stages((layer.downsample, list(layer.blocks)) for layer in self.net.layers)

    def embed(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.net.patch_embed(images))


class ConvNeXt(Anatomy):
    """Stages of convolutions; z goes from block to block as (B, H, W, C), as in a Swin."""

    parts = ("stem", "stages", "head.norm", "head.fc")

    @property
    def norm(self) -> nn.Module:
        """The final norm, which timm keeps in the head; it takes (B, C, H, W)."""
        return cast(nn.Module, self.net.head.norm)

    def tokens(self, image_size: int) -> Tokens:
        least = self.net.feature_info[-1]["reduction"]
        if image_size < least:
            raise UserError(f"input.size is {image_size}; this network needs {least} or more")
        side = image_size // self.net.feature_info[0]["reduction"]
        return Tokens(0, (side, side))

    def stages(self) -> tuple[Stage, ...]:
        return self._stages(
            (ChannelsLast(stage.downsample), [ChannelsLast(block) for block in stage.blocks])
            for stage in self.net.stages
        )

    def embed(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.net.stem(images).permute(0, 2, 3, 1))

    def normalised(self, norm: nn.Module, z: Tensor) -> Tensor:
        if z.ndim == 2:
            return cast(Tensor, norm(z[:, :, None, None]).flatten(1))
        return cast(Tensor, ChannelsLast(norm)(z))

    def features(self, z: Tensor) -> Tensor:
        return z.permute(0, 3, 1, 2)


def dissect(net: Any) -> Anatomy:
    """The anatomy of a network. Raises Unsupported where its family is not known."""
    if isinstance(net, TimmConvNeXt) and hasattr(net.head, "norm"):
        return ConvNeXt(net)
    if hasattr(net, "patch_embed") and hasattr(net, "norm"):
        if isinstance(net, Eva):
            return Rotary(net)
        if hasattr(net, "layers"):
            return Swin(net)
        if hasattr(net, "blocks") and hasattr(net, "_pos_embed"):
            return ViT(net)
    raise Unsupported(f"its family, {type(net).__name__}, is not known")
