"""Drop path: Deep Networks with Stochastic Depth, https://arxiv.org/abs/1603.09382."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from petlbench.checks import fraction


class DropPath(nn.Module):
    """Drops a branch for some images and divides it by 1 - rate for the others.

    The module draws nothing itself: it reads `keep`, its row of the masks that `keep_masks` draws
    for a training step. So the step can be repeated, or a block of it recomputed, with the same
    branches. In eval mode the input passes unchanged.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = fraction("backbone.drop_path", rate)
        self.keep: Tensor | None = None  # (B,), 1 where the branch stays

    def forward(self, z: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)"""
        if not self.training:
            return z
        if self.keep is None or len(self.keep) != len(z):
            raise RuntimeError(
                f"no drop-path mask for {len(z)} images: "
                "run each training step inside `with keep_masks(method, len(images)):`"
            )
        factor = (self.keep / (1 - self.rate)).to(z.dtype)
        product: Tensor = _Times.apply(z, factor.view(-1, *[1] * (z.ndim - 1)))
        return product

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class _Times(torch.autograd.Function):
    """z times a factor that needs no gradient and is no saved tensor.

    A block that is computed again in backward is computed up to its last saved tensor, which then
    lies before the last layer of the MLP.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, factor: Tensor) -> Tensor:
        """Z (B, ...), factor (B, 1, ...) -> (B, ...)"""
        ctx.factor = factor
        return z * factor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Gradient of the product (B, ...) -> of z, of the factor"""
        return gradient * ctx.factor, None


@contextmanager
def keep_masks(
    network: nn.Module, images: int, generator: torch.Generator | None = None
) -> Iterator[None]:
    """Masks for one training step on `images` images, for all drop paths of a network.

    Hold it open over forward and backward, where checkpointed blocks are recomputed; afterwards
    no module holds a mask. generator: torch's own if None. Masks are drawn on the CPU, so that all
    devices drop the same branches for the same seed.
    """
    paths = [module for module in network.modules() if isinstance(module, DropPath)]
    try:
        if paths:
            draws = torch.rand(len(paths), images, generator=generator, device="cpu")
            rates = torch.tensor([path.rate for path in paths], device="cpu")
            # (paths, B), 1 with probability 1 - rate
            masks = (draws >= rates[:, None]).float()
            device = next(network.parameters()).device
            masks = masks.to(device, non_blocking=True)  # a copy that blocks waits for the device
            for path, mask in zip(paths, masks, strict=True):
                path.keep = mask
        yield
    finally:
        for path in paths:
            path.keep = None


class FixedMasks:
    """Copies of the masks of a network's drop paths, which lie in one place for every step.

    torch takes a tensor that a module holds for fixed: it would record a CUDA graph for every
    place in which the masks of a step happen to lie.
    """

    def __init__(self, network: nn.Module) -> None:
        self.paths = [module for module in network.modules() if isinstance(module, DropPath)]
        self.copies: dict[int, list[Tensor]] = {}  # by the number of images

    def take(self, images: int) -> None:
        """Let the drop paths read copies of their masks for a step on `images` images, (B,)."""
        masks = [path.keep for path in self.paths if path.keep is not None]
        if images not in self.copies:
            self.copies[images] = [mask.clone() for mask in masks]
        for path, copy, mask in zip(self.paths, self.copies[images], masks, strict=True):
            path.keep = copy.copy_(mask)
