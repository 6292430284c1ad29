"""A pre-trained timm network as embed, stages of blocks, pooled and head."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, cast

import timm
import torch
from timm.layers import DropPath as TimmDropPath
from timm.models.eva import Eva
from torch import Tensor, nn

import petlbench.mini.network  # noqa: F401 -- registers vit_mini with timm
from petlbench.blocks import Tokens, WithRope
from petlbench.checks import fraction
from petlbench.errors import Unsupported, UserError, unknown
from petlbench.leaves import DropPath
from petlbench.surgery import swap_type
from petlbench.weights import Origin

Block = Callable[[Tensor], Tensor]

POOLS = ("cls", "patch_mean_then_norm", "norm_then_mean", "attention")

# What the walk over a network runs; one with parameters elsewhere is refused.
TOKENS = {"patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre"}
PARTS = TOKENS | {"blocks", "layers", "attn_pool", "head"}


@dataclass
class Stage:
    """Blocks of one width. `blocks` may be edited; the parameters live in `Backbone.net`."""

    first: int  # number of its first block, from 1
    enter: Block  # patch merging (in a Swin, timm merges at the start of a stage), or identity
    blocks: list[Block]
    width: int


class Backbone(nn.Module):
    """A timm network taken apart, frozen but for its head.

    z is (B, N, C) in a ViT, with prefix tokens (class token, registers) before the patches, and
    (B, H, W, C) in a Swin. `pool` is one of
      cls                   the class token after the final norm
      patch_mean_then_norm  the mean of the patch tokens, normalised (DTL on ViT)
      norm_then_mean        the mean of the normalised patch tokens
      attention             the network's own attention pooling of the normalised tokens (SigLIP)
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        pool: str,
        mean: Iterable[float],
        std: Iterable[float],
        origin: Origin,
    ) -> None:
        """Take over `net`, a timm network. Raises Unsupported where its family is not known."""
        super().__init__()
        self.net: Any = net
        self.stages = _stages(net)
        self.origin = origin
        self.checkpoint = origin.unloaded()
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.tokens = Tokens(getattr(net, "num_prefix_tokens", 0), self._grid())
        self._check_parts()
        self._check_walk()
        self.pool = self._checked(pool)
        net.requires_grad_(False)
        self.head.requires_grad_(True)

    @property
    def tag(self) -> str:
        """The name that timm gives the network, with the tag that says which weights."""
        return self.origin.name

    @property
    def head(self) -> nn.Module:
        """The classification head; it stays inside `net`, under timm's name."""
        return cast(nn.Module, self.net.get_classifier())

    @property
    def norm(self) -> nn.Module:
        """The final norm; timm calls it fc_norm in networks made for average pooling."""
        first = self.net.norm
        return cast(nn.Module, self.net.fc_norm if isinstance(first, nn.Identity) else first)

    @property
    def widths(self) -> list[int]:
        """Channels at each block."""
        return [stage.width for stage in self.stages for _ in stage.blocks]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.widths)

    def load_weights(self) -> None:
        """Load what `origin` names: before any method changes the network, never on meta."""
        head = next(name for name, module in self.net.named_modules() if module is self.head)
        self.checkpoint = self.origin.load(self.net, head)

    def example(self) -> Tensor:
        """(1, 3, H, W): an image (a ramp) of the size, type and device that the network takes."""
        weight = next(self.net.parameters())
        height, width = self.net.patch_embed.img_size
        ramp = torch.linspace(-1, 1, 3 * height * width, dtype=weight.dtype, device=weight.device)
        return ramp.view(1, 3, height, width)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> z, the input of the first stage"""
        z = self.net.patch_embed(images)
        if isinstance(self.net, Eva):
            z = self.net.norm_pre(self.net._pos_embed(z)[0])
        elif hasattr(self.net, "_pos_embed"):
            z = self.net.norm_pre(self.net.patch_drop(self.net._pos_embed(z)))
        return cast(Tensor, z)

    def pooled(self, z: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Output of the last block -> (B, C), the input of the head.

        norm: in the place of the network's final one.
        """
        norm = norm or self.norm
        if self.pool == "cls":
            return cast(Tensor, norm(z[:, 0]))
        if self.pool == "attention":
            return cast(Tensor, self.net.attn_pool(norm(z)))
        if self.pool == "patch_mean_then_norm":
            return cast(Tensor, norm(self.tokens.split(z)[1].mean(1)))
        return self.tokens.split(norm(z))[1].mean(1)

    def _grid(self) -> tuple[int, int]:
        grid = getattr(self.net.patch_embed, "grid_size", None)
        if grid is None:
            raise self._unsupported("its patches lie on no grid of known size")
        return cast(tuple[int, int], tuple(grid))

    def _checked(self, pool: str) -> str:
        if pool not in POOLS:
            raise unknown("backbone.pool", pool, POOLS)
        if pool == "cls" and getattr(self.net, "cls_token", None) is None:
            raise UserError(
                f"backbone.pool=cls needs a class token and {self.tag} has none; "
                "set backbone.pool=norm_then_mean or patch_mean_then_norm"
            )
        pools = getattr(self.net, "attn_pool", None) is not None
        if pools != (pool == "attention"):
            has = "pools by attention" if pools else "has no attention pooling"
            raise UserError(
                f"backbone.pool is {pool} and {self.tag} {has}; "
                f"set backbone.pool={'attention' if pools else 'norm_then_mean'}"
            )
        return pool

    def _check_parts(self) -> None:
        """Refuse a network with parameters that the walk would not use."""
        ends = {"fc_norm"} if isinstance(self.net.norm, nn.Identity) else {"norm"}
        for name, _ in self.net.named_parameters():
            if name.partition(".")[0] not in PARTS | ends:
                raise self._unsupported(
                    f"its {name} lies outside embedding, blocks, norm and head"
                )

    def _check_walk(self) -> None:
        """Refuse a network whose own forward pass does more than the walk over its blocks."""
        training = self.net.training
        self.net.eval()
        try:
            if min(self.tokens.grid) < 1:
                raise UserError(f"input.size is smaller than a patch of {self.tag}; set it higher")
            with torch.no_grad():
                image = self.example()
                z = self.embed(image)
                for stage in self.stages:
                    z = stage.enter(z)
                    for block in stage.blocks:
                        z = block(z)
                whole = self.net.forward_features(image)
                same = image.is_meta or torch.equal(self.net.norm(z), whole)
        except (TypeError, AttributeError, RuntimeError) as error:
            raise self._unsupported(str(error).splitlines()[0]) from error
        finally:
            self.net.train(training)
        if not same:
            raise self._unsupported("its forward pass is more than a walk over its blocks")

    def _unsupported(self, why: str) -> Unsupported:
        return Unsupported(
            f"{self.tag} is no plain ViT or Swin: {why}; choose another backbone.name"
        )


def create(
    *,
    name: str,
    pool: str,
    mean: Iterable[float],
    std: Iterable[float],
    drop_path: float,
    checkpoint: str | None,
    pretrained: bool,
    classes: int,
    image_size: int,
) -> Backbone:
    """A timm network by its tagged name, with random weights: `load_weights` comes next.

    The two steps are apart so that a network can be built on the meta device. The head starts as
    `start_head` says, the other weights as timm initialises them. Drop path grows linearly from 0
    to `drop_path`.
    """
    fraction("backbone.drop_path", drop_path)
    _check_name(name)
    # timm's Swin drops paths at 0.1 unless told otherwise.
    options: dict[str, Any] = {
        "num_classes": classes,
        "img_size": image_size,
        "drop_path_rate": drop_path,
    }
    try:
        net = timm.create_model(name, pretrained=False, **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise Unsupported(f"{name} cannot be built for {image_size} px images: {error}") from error
    swap_type(net, TimmDropPath, lambda old: DropPath(old.drop_prob))
    origin = Origin(name=name, checkpoint=checkpoint, pretrained=pretrained)
    backbone = Backbone(net, pool=pool, mean=mean, std=std, origin=origin)
    start_head(cast(nn.Linear, backbone.head))
    return backbone


def start_head(head: nn.Linear) -> None:
    """Weights from N(0, 0.02^2), truncated, and zero bias: the heads of DTL's and NOAH's code."""
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)


def _check_name(name: str) -> None:
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        near = get_close_matches(plain, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"unknown timm network '{name}'; {hint}"
            "python -c 'import timm; print(timm.list_models())' lists all"
        )
    tags = [known.partition(".")[2] for known in timm.list_models(f"{plain}.*", pretrained=True)]
    if tag and tag not in tags:
        raise unknown(f"weights tag of {plain}", tag, tags)


def _stages(net: Any) -> tuple[Stage, ...]:
    """One stage of `net.blocks` (ViT), or one for each of `net.layers` (Swin)."""
    blocks = hasattr(net, "blocks") or hasattr(net, "layers")
    if not (blocks and hasattr(net, "patch_embed") and hasattr(net, "norm")):
        family = type(net).__name__
        raise Unsupported(f"{family} is no plain ViT or Swin; choose another backbone.name")
    parts: list[tuple[Any, Any]] = [(nn.Identity(), getattr(net, "blocks", ()))]
    if hasattr(net, "layers"):
        parts = [(layer.downsample, layer.blocks) for layer in net.layers]
    stages: list[Stage] = []
    first = 1
    for (enter, blocks), info in zip(parts, net.feature_info, strict=False):
        stages.append(Stage(first, enter, _callable(net, blocks), info["num_chs"]))
        first += len(blocks)
    return tuple(stages)


def _callable(net: Any, blocks: Iterable[nn.Module]) -> list[Block]:
    """Blocks to be called as block(z): those that want rotary positions are given them."""
    if getattr(net, "rope", None) is None:
        return list(blocks)
    shape = {"shape": net.patch_embed.grid_size} if net.dynamic_img_size else {}
    return [WithRope(block, partial(net.rope.get_embed, **shape)) for block in blocks]
