"""A pre-trained timm network as embed, stages of blocks, pooled and head."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from typing import Any, cast

import timm
import torch
from timm.layers import DropPath as TimmDropPath
from torch import Tensor, nn

import petlbench.model.vit_mini  # noqa: F401 -- registers vit_mini with timm
from petlbench.config.schema import BackboneConfig
from petlbench.errors import Unsupported, UserError, unknown
from petlbench.model.drop_path import DropPath
from petlbench.model.families import family_of
from petlbench.model.weights import Origin
from petlbench.swap import swap_type

POOLS = ("cls", "patch_mean_then_norm", "norm_then_mean", "attention")


def _small_normal(head: nn.Linear) -> None:
    """Weights from N(0, 0.02^2), truncated, and zero bias: the heads of DTL's and NOAH's code."""
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)


HEAD_STARTS: dict[str, Callable[[nn.Linear], None]] = {
    "small_normal": _small_normal,
    "torch": nn.Linear.reset_parameters,
}


class Backbone(nn.Module):
    """A timm network as embedding, stages, norm and head; all but the head is frozen.

    z is (B, N, C) in a ViT, with prefix tokens (class token, registers) before the patches, and
    (B, H, W, C) in a Swin or ConvNeXt. `pool` is one of
      cls                   the class token after the final norm
      patch_mean_then_norm  the mean of the patch tokens, normalised (DTL on ViT; ConvNeXt)
      norm_then_mean        the mean of the normalised patch tokens
      attention             the network's own attention pooling of the normalised tokens (SigLIP)
    `plain_modules` and `plain_parameters` are those of the network as it was built, without the
    head: what a method adds is not listed, and what it removes stays listed.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        pool: str,
        mean: Iterable[float],
        std: Iterable[float],
        image_size: int,
        origin: Origin,
        head_start: str,
    ) -> None:
        """Take over `net`, a timm network. Raises Unsupported where its family is not known."""
        super().__init__()
        self.net: Any = net
        self.image_size = image_size
        self.origin = origin
        if head_start not in HEAD_STARTS:
            raise unknown("backbone.head_start", head_start, HEAD_STARTS)
        self.head_start = head_start
        self.checkpoint = origin.unloaded()
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        try:
            self.family = family_of(net)
            self.tokens = self.family.tokens(image_size)
        except Unsupported as error:
            raise self._unsupported(str(error)) from error
        self.stages = self.family.stages()
        self._check_parts()
        self._check_walk()
        self.pool = self._checked(pool)
        net.requires_grad_(False)
        self.head.requires_grad_(True)
        head = {id(part) for part in (*self.head.modules(), *self.head.parameters())}
        # Lists, not sets of ids: a copy of the backbone then lists the parts of the copy.
        self.plain_modules = [part for part in self.modules() if id(part) not in head]
        self.plain_parameters = [part for part in net.parameters() if id(part) not in head]

    @property
    def tag(self) -> str:
        """The name that timm gives the network, with the tag that says which weights."""
        return self.origin.name

    @property
    def attention(self) -> str | None:
        """Fused (torch's scaled_dot_product_attention), unfused, or None without attention."""
        found = {bool(module.fused_attn) for module in self._attentions()}
        return None if not found else "fused" if found == {True} else "unfused"

    def start_head(self) -> None:
        """Draw the head's weights anew."""
        HEAD_STARTS[self.head_start](cast(nn.Linear, self.head))

    def unfuse_attention(self) -> None:
        """Compute attention weights as tensors, as networks did before fused kernels."""
        for module in self._attentions():
            module.fused_attn = False

    @property
    def head(self) -> nn.Module:
        """The classification head; it stays inside `net`, under timm's name."""
        return cast(nn.Module, self.net.get_classifier())

    @property
    def norm(self) -> nn.Module:
        """The final norm, as the network holds it; `normalised` applies it."""
        return self.family.norm

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

    def swap_blocks(self, make: Callable[[nn.Module, int], nn.Module]) -> None:
        """Replace each block by make(block, width); both are called as block(z)."""
        for stage in self.stages:
            for slot in stage.blocks.slots:
                slot.put(make(slot.own(), stage.width))

    def example(self) -> Tensor:
        """(1, 3, H, W): an image (a ramp) of the size, type and device that the network takes."""
        weight = next(self.net.parameters())
        side = self.image_size
        ramp = torch.linspace(-1, 1, 3 * side * side, dtype=weight.dtype, device=weight.device)
        return ramp.view(1, 3, side, side)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> z, the input of the first stage"""
        return self.family.embed(images)

    def pooled(self, z: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Output of the last block -> (B, C), the input of the head.

        norm: in the place of the network's final one.
        """
        normalised = partial(self.family.normalised, norm or self.norm)
        if self.pool == "cls":
            return normalised(z[:, 0])
        if self.pool == "attention":
            return cast(Tensor, self.net.attn_pool(normalised(z)))
        if self.pool == "patch_mean_then_norm":
            return normalised(self.tokens.split(z)[1].mean(1))
        return self.tokens.split(normalised(z))[1].mean(1)

    def _attentions(self) -> list[Any]:
        return [module for module in self.net.modules() if hasattr(module, "fused_attn")]

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
        norms = [name for name, module in self.net.named_modules() if module is self.norm]
        parts = tuple(f"{part}." for part in (*self.family.parts, *norms))
        for name, _ in self.net.named_parameters():
            if not f"{name}.".startswith(parts):
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
                same = image.is_meta or torch.equal(self.family.features(z), whole)
        except (TypeError, AttributeError, RuntimeError) as error:
            raise self._unsupported(str(error).splitlines()[0]) from error
        finally:
            self.net.train(training)
        if not same:
            raise self._unsupported("its forward pass is more than a walk over its blocks")

    def _unsupported(self, why: str) -> Unsupported:
        return Unsupported(
            f"{self.tag} is no plain ViT, Swin or ConvNeXt: {why}; choose another backbone.name"
        )


def create(config: BackboneConfig, *, classes: int, image_size: int) -> Backbone:
    """A timm network by its tagged name, with random weights: `load_weights` comes next.

    The two steps are apart so that a network can be built on the meta device. The head starts as
    `head_start` says, the other weights as timm initialises them. Drop path grows linearly from 0
    to `drop_path`.
    """
    _check_name(config.name)
    # timm's Swin drops paths at 0.1 unless told otherwise.
    try:
        net = _network(
            config.name, image_size, num_classes=classes, drop_path_rate=config.drop_path
        )
    except (TypeError, AssertionError, ValueError) as error:
        raise Unsupported(
            f"{config.name} cannot be built for {image_size} px images: {error}"
        ) from error
    swap_type(net, TimmDropPath, lambda old: DropPath(old.drop_prob))
    origin = Origin(name=config.name, checkpoint=config.checkpoint, pretrained=config.pretrained)
    backbone = Backbone(
        net,
        pool=config.pool,
        mean=config.mean,
        std=config.std,
        image_size=image_size,
        origin=origin,
        head_start=config.head_start,
    )
    backbone.start_head()
    if not config.fused_attention:
        backbone.unfuse_attention()
    return backbone


def _network(name: str, image_size: int, **options: Any) -> nn.Module:
    """Timm's network, made for one image size or (a convolutional one) for all."""
    try:
        return timm.create_model(name, pretrained=False, img_size=image_size, **options)
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
        return timm.create_model(name, pretrained=False, **options)


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
