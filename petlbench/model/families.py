"""Families of timm networks: one class each, chosen by `family_of`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.eva import Eva
from torch import Tensor, nn

from petlbench.errors import Unsupported, UserError
from petlbench.model.block import ChannelsLast, WithRope
from petlbench.model.stage import Adapt, Slot, Stage
from petlbench.model.tokens import Tokens

# timm's names of what comes before the blocks.
TOKENS = ("patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre")


class Family(ABC):
    """Where the networks of one family keep what the walk needs: embedding, stages and norm.

    `parts` are the names of the modules that the walk runs; a network with parameters elsewhere
    is refused. The methods with a body fit transformers with a patch embedding.
    """

    parts: tuple[str, ...]

    def __init__(self, net: nn.Module) -> None:
        self.net: Any = net

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the network."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> z, the input of the first stage: (B, N, C) or (B, H, W, C)"""

    @property
    def norm(self) -> nn.Module:
        """The final norm; timm names it fc_norm in networks with average pooling."""
        first = self.net.norm
        return cast(nn.Module, self.net.fc_norm if isinstance(first, nn.Identity) else first)

    def tokens(self, image_size: int) -> Tokens:
        """The layout of the output of `embed`."""
        grid = getattr(self.net.patch_embed, "grid_size", None)
        if grid is None:
            raise Unsupported("the size of its patch grid is unknown")
        # A Swin has no such attribute and no prefix.
        return Tokens(getattr(self.net, "num_prefix_tokens", 0), tuple(grid))

    def normalised(self, norm: nn.Module, z: Tensor) -> Tensor:
        """The norm of tokens (B, ..., C) or of a pooled vector (B, C); the shape stays."""
        return cast(Tensor, norm(z))

    def features(self, z: Tensor) -> Tensor:
        """Output of the last block -> result of the network's own `forward_features`."""
        return cast(Tensor, self.net.norm(z))

    def _stages(
        self, names: Iterable[tuple[str | None, str]], adapt: Adapt | None = None
    ) -> tuple[Stage, ...]:
        """names: for each stage, of its entry (None: identity) and of the list of its blocks."""
        stages: list[Stage] = []
        first = 1
        # feature_info has a row per block in a ViT and per stage elsewhere: the first ones count.
        for (entry, blocks), info in zip(names, self.net.feature_info, strict=False):
            count = len(self.net.get_submodule(blocks))
            slots = [Slot(self.net, f"{blocks}.{index}", adapt) for index in range(count)]
            stages.append(Stage(first, Slot(self.net, entry, adapt), slots, info["num_chs"]))
            first += count
        return tuple(stages)


class ViT(Family):
    """One stage of blocks; z is (B, N, C), with the prefix tokens first."""

    parts = ("blocks", "head", "attn_pool", *TOKENS)

    def stages(self) -> tuple[Stage, ...]:
        return self._stages([(None, "blocks")])

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, C)"""
        # The start of timm's VisionTransformer.forward_features.
        z = self.net._pos_embed(self.net.patch_embed(images))
        return cast(Tensor, self.net.norm_pre(self.net.patch_drop(z)))


class Rotary(ViT):
    """A ViT whose blocks take rotary positions at each call (EVA-02, DINOv3)."""

    def stages(self) -> tuple[Stage, ...]:
        net = self.net
        if getattr(net, "rope", None) is None:
            return super().stages()
        # With dynamic sizes timm's rope has no grid of its own.
        shape = {"shape": net.patch_embed.grid_size} if net.dynamic_img_size else {}
        rope = partial(net.rope.get_embed, **shape)
        return self._stages([(None, "blocks")], partial(WithRope, rope=rope))

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, C)"""
        net = self.net
        # _pos_embed also returns the rope, which WithRope asks for itself.
        return cast(Tensor, net.norm_pre(net._pos_embed(net.patch_embed(images))[0]))


class Swin(Family):
    """Stages in `layers`; z is (B, H, W, C)."""

    parts = ("patch_embed", "layers", "head")

    def stages(self) -> tuple[Stage, ...]:
        return self._stages(
            (f"layers.{index}.downsample", f"layers.{index}.blocks")
            for index in range(len(self.net.layers))
        )

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H', W', C)"""
        return cast(Tensor, self.net.patch_embed(images))


class ConvNeXt(Family):
    """Stages of convolutions; z is (B, H, W, C) between blocks, as in a Swin."""

    parts = ("stem", "stages", "head.norm", "head.fc")

    @property
    def norm(self) -> nn.Module:
        """The final norm, which timm keeps in the head; it takes (B, C, H, W)."""
        return cast(nn.Module, self.net.head.norm)

    def tokens(self, image_size: int) -> Tokens:
        smallest = self.net.feature_info[-1]["reduction"]
        if image_size < smallest:
            raise UserError(f"input.size is {image_size}; this network needs {smallest} or more")
        side = image_size // self.net.feature_info[0]["reduction"]
        return Tokens(0, (side, side))

    def stages(self) -> tuple[Stage, ...]:
        names = [
            (f"stages.{index}.downsample", f"stages.{index}.blocks")
            for index in range(len(self.net.stages))
        ]
        return self._stages(names, ChannelsLast)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H', W', C)"""
        return cast(Tensor, self.net.stem(images).permute(0, 2, 3, 1))

    def normalised(self, norm: nn.Module, z: Tensor) -> Tensor:
        """The norm, which takes (B, C, H, W), of (B, H, W, C) or (B, C); the shape stays."""
        if z.ndim == 2:
            return cast(Tensor, norm(z[:, :, None, None]).flatten(1))
        return cast(Tensor, ChannelsLast(norm)(z))

    def features(self, z: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, C, H, W); timm's norm comes after the pooling"""
        return z.permute(0, 3, 1, 2)


def family_of(net: Any) -> Family:
    """The family of a timm network. Raises Unsupported if it is not one of those above."""
    # With timm's head_norm_first the norm is norm_pre, before pooling.
    if isinstance(net, TimmConvNeXt) and hasattr(net.head, "norm"):
        return ConvNeXt(net)
    if hasattr(net, "patch_embed") and hasattr(net, "norm"):
        if isinstance(net, Eva):  # before the test for a ViT, whose attributes Eva has too
            return Rotary(net)
        if hasattr(net, "layers"):
            return Swin(net)
        if hasattr(net, "blocks") and hasattr(net, "_pos_embed"):
            return ViT(net)
    raise Unsupported(f"its family, {type(net).__name__}, is not supported")
