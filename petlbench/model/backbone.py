"""A pre-trained timm network as embedding, stages of blocks, pooling and head."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from petlbench.config.nodes import STORED, WHOLE, BackboneConfig
from petlbench.errors import Unsupported, UserError, first_line
from petlbench.layers.linear import Linear
from petlbench.layers.quantised import QuantisedLinear, check, quantise
from petlbench.model.families import family_of
from petlbench.model.head_starts import HEAD_STARTS
from petlbench.model.network import build_network
from petlbench.model.weights import WeightSource


class Backbone(nn.Module):
    """A timm network as embedding, stages, norm and head; all but the head is frozen.

    z is (B, N, C) in a ViT, with prefix tokens (class token, registers) before the patches, and
    (B, H, W, C) in a Swin or ConvNeXt. `pool` is one of
      cls                   the class token after the final norm
      patch_mean_then_norm  the mean of the patch tokens, normalised (DTL on ViT; ConvNeXt)
      norm_then_mean        the mean of the normalised patch tokens
      attention             the network's own attention pooling of the normalised tokens (SigLIP)
    `plain_modules` and `plain_parameters` are those of the network as it was built, without the
    head: what a method adds is not listed, and what it removes stays listed. `plain_state` has the
    names of its tensors, with those of the head.
    """

    def __init__(self, net: nn.Module, config: BackboneConfig, *, image_size: int) -> None:
        """Freeze a timm network, which is not copied.

        image_size: side of the images in pixels. Raises Unsupported if the family of the network
        is not supported, UserError if it cannot pool as `config` says.
        """
        super().__init__()
        self.net: Any = net  # timm's networks have no common class
        self.image_size = image_size
        self.head_start = config.head_start
        self.weight_format = config.weights
        self.weights = WeightSource(config.name, config.checkpoint, config.pretrained)
        self.checkpoint = self.weights.unloaded()
        self.mean, self.std = tuple(map(float, config.mean)), tuple(map(float, config.std))
        try:
            self.family = family_of(net)
            self.tokens = self.family.tokens(image_size)
        except Unsupported as error:
            raise self._unsupported(str(error)) from error
        self.stages = self.family.stages()
        self._check_parts()
        self._check_walk()
        self._check_pool(config.pool)
        self.pool = config.pool
        net.requires_grad_(False)
        self.head.requires_grad_(True)
        head = {id(part) for part in (*self.head.modules(), *self.head.parameters())}
        # Lists, not sets of ids: a copy of the backbone then lists the parts of the copy.
        self.plain_modules = [part for part in self.modules() if id(part) not in head]
        self.plain_parameters = [part for part in net.parameters() if id(part) not in head]
        self.plain_state = frozenset(net.state_dict())

    @property
    def tag(self) -> str:
        """Timm's name of the network, with the tag of its weights."""
        return self.weights.name

    @property
    def attention(self) -> str | None:
        """Fused (torch's scaled_dot_product_attention), unfused, or None without attention."""
        fused = [bool(module.fused_attn) for module in self._attentions()]
        return None if not fused else "fused" if all(fused) else "unfused"

    def timm_arguments(self) -> dict[str, int]:
        """The arguments beside the name by which timm builds such a network, without pooling."""
        classes = {"num_classes": cast(nn.Linear, self.head).out_features}
        patches = getattr(self.net, "patch_embed", None)
        # A convolutional network has no argument img_size.
        sized = getattr(patches, "img_size", None) is not None
        return classes | {"img_size": self.image_size} if sized else classes

    def start_head(self) -> None:
        """Initialise the head.

        Raises Unsupported if the head is that of the checkpoint, whose size is given.
        """
        if self.head_start == STORED:
            raise Unsupported(
                "the method starts a head of its own, so backbone.head_start=stored has no "
                "weights for it; set backbone.head_start=small_normal"
            )
        HEAD_STARTS[self.head_start](cast(nn.Linear, self.head))

    def unfuse_attention(self) -> None:
        """Compute attention weights as tensors, as networks did before fused kernels."""
        for module in self._attentions():
            module.fused_attn = False  # timm reads it in each forward pass

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
        """Load the pre-trained weights, before a method changes the network; not on meta.

        Raises UserError if they are missing, damaged, or do not fit.
        """
        # timm names it `head` or `head.fc`.
        head = next(name for name, module in self.net.named_modules() if module is self.head)
        self.checkpoint = self.weights.load(self.net, head, with_head=self.head_start == STORED)

    def quantise_frozen(self) -> None:
        """Hold the weights of frozen linear layers as `backbone.weights` says, once for all.

        A method comes first: it may unfreeze layers, and read weights that are still exact. Raises
        UserError if a package is missing, Unsupported if no linear layer is frozen.
        """
        if self.weight_format == WHOLE:
            return
        check(self.weight_format)
        plain = {id(tensor) for tensor in self.plain_parameters}
        linear = [
            module
            for module in self.net.modules()
            # subclasses may compute something else
            if type(module) in (nn.Linear, Linear)
            and id(module.weight) in plain
            and not module.weight.requires_grad
        ]
        gone = {id(module.weight) for module in linear}
        self.plain_parameters = [one for one in self.plain_parameters if id(one) not in gone]
        for module in linear:
            quantise(module, self.weight_format)
        if not any(isinstance(module, QuantisedLinear) for module in self.net.modules()):
            raise Unsupported(
                f"backbone.weights={self.weight_format} is for frozen linear layers, and this "
                f"method leaves none in {self.tag}; set backbone.weights={WHOLE}"
            )

    def check_size(self) -> None:
        """Raise UserError for images whose last pixels are in no patch of a ViT or Swin.

        Some networks were pre-trained on such images, and that size is accepted.
        """
        side = getattr(getattr(self.net, "patch_embed", None), "patch_size", (1,))[0]
        known = getattr(self.net, "pretrained_cfg", None) or {}
        usual = known.get("input_size") or (0,)
        if self.image_size % side and self.image_size != usual[-1]:
            below = self.image_size // side * side
            raise UserError(
                f"input.size is {self.image_size}, and {self.tag} has patches of {side} pixels; "
                f"set input.size={below} or {below + side}"
            )

    def swap_blocks(self, make: Callable[[nn.Module, int], nn.Module]) -> None:
        """Replace each block by make(block, width); both are called as block(z)."""
        for stage in self.stages:
            for slot in stage.blocks.slots:
                # own() is called as block(z), whatever timm passes to its blocks.
                slot.put(make(slot.own(), stage.width))

    def example(self) -> Tensor:
        """An image (1, 3, H, W), a ramp, in the size, type and device of the network."""
        weight = next(self.net.parameters())
        side = self.image_size
        # Different pixels without a draw, so torch's random state stays.
        ramp = torch.linspace(-1, 1, 3 * side * side, dtype=weight.dtype, device=weight.device)
        return ramp.view(1, 3, side, side)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> z, the input of the first stage: (B, N, C) or (B, H, W, C)"""
        return self.family.embed(images)

    def pooled(self, z: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Output of the last block, (B, N, C) or (B, H, W, C) -> input of the head, (B, C)

        norm: replaces the final norm of the network.
        """
        normalised = partial(self.family.normalised, norm or self.norm)
        if self.pool == "cls":
            return normalised(z[:, 0])  # the norm acts on each token alone
        if self.pool == "attention":
            return cast(Tensor, self.net.attn_pool(normalised(z)))
        # Pooled here: with global_pool="avg" timm replaces `norm` by an untrained fc_norm.
        if self.pool == "patch_mean_then_norm":
            return normalised(self.tokens.split(z)[1].mean(1))
        return self.tokens.split(normalised(z))[1].mean(1)

    def _attentions(self) -> list[Any]:
        return [module for module in self.net.modules() if hasattr(module, "fused_attn")]

    def _check_pool(self, pool: str) -> None:
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
        if min(self.tokens.grid) < 1:
            raise UserError(f"input.size is smaller than a patch of {self.tag}; set it higher")
        training = self.net.training
        self.net.eval()  # in training mode drop paths ask for masks
        try:
            is_walk = self._is_walk()
        except (TypeError, AttributeError, RuntimeError, AssertionError) as error:
            raise self._unsupported(first_line(error)) from error
        finally:
            self.net.train(training)
        if not is_walk:
            raise self._unsupported("its forward pass is more than a walk over its blocks")

    @torch.no_grad()
    def _is_walk(self) -> bool:
        """Whether walk and network have equal features for one image; on meta only shapes run."""
        image = self.example()
        z = self.embed(image)
        for stage in self.stages:
            z = stage.enter(z)
            for block in stage.blocks:
                z = block(z)
        features = self.net.forward_features(image)
        # Equal to the bit: both run the same modules in the same order.
        return image.is_meta or torch.equal(self.family.features(z), features)

    def _unsupported(self, why: str) -> Unsupported:
        return Unsupported(
            f"{self.tag} is not a plain ViT, Swin or ConvNeXt: {why}; choose another backbone.name"
        )


def create(config: BackboneConfig, *, classes: int, image_size: int) -> Backbone:
    """A backbone with random weights; `load_weights` is the next step.

    The two steps are separate so that a network can be built on the meta device. The head starts
    as `head_start` says (a stored one with `load_weights`), the other weights as timm initialises
    them. Raises UserError for an unknown name or a pooling that the network lacks, Unsupported for
    other families of networks.
    """
    net = build_network(
        config.name, classes=classes, image_size=image_size, drop_path=config.drop_path
    )
    backbone = Backbone(net, config, image_size=image_size)
    if config.head_start != STORED:
        backbone.start_head()
    # fused_attention=true keeps timm's choice, which is unfused in a Swin.
    if not config.fused_attention:
        backbone.unfuse_attention()
    return backbone
