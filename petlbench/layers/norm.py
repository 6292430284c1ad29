"""LayerNorms whose trained weights have the same gradients for any number of threads."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.layers.kept import centred, is_recorded


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm with the same outputs and, but for rounding, the same gradients.

    On the CPU torch sums the gradients of weight and bias in as many parts as it has threads.
    Here each is one sum, whose order does not depend on the threads.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)"""
        weights = (self.weight, self.bias)
        trains = any(tensor is not None and tensor.requires_grad for tensor in weights)
        # A fake tensor counts the bytes of a GPU's step too.
        is_real = type(x) is Tensor and x.is_cpu
        if not (trains and is_real and is_recorded()):
            return F.layer_norm(x, self.normalized_shape, *weights, self.eps)
        return cast(Tensor, LayerNormProduct.apply(x, *weights, self.eps, self.normalized_shape))


class TimmLayerNorm(LayerNorm):
    """`LayerNorm` in the place of timm's class of that name."""


class LayerNorm2d(LayerNorm):
    """`LayerNorm` over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerNormProduct(torch.autograd.Function):
    """(x - mean) rstd weight + bias over the last dimensions, those of `shape`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        shape: tuple[int, ...],
    ) -> Tensor:
        """(..., *shape), shape, shape -> (..., *shape)"""
        y, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.shape = shape
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the output -> those of x, weight and bias"""
        x, mean, rstd, weight, bias = ctx.saved_tensors
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        inputs = torch.ops.aten.native_layer_norm_backward(
            *(grad, x, ctx.shape, mean, rstd, weight, bias, [of_x, False, False])
        )
        return (
            inputs[0],
            _summed(grad * centred(x, mean, rstd), weight) if of_weight else None,
            _summed(grad, bias) if of_bias else None,
            None,
            None,
        )


def _summed(terms: Tensor, like: Tensor) -> Tensor:
    # Not sum_to_size, which may sum in another order.
    return terms.reshape(terms.shape[: -like.ndim].numel(), *like.shape).sum(0).to(like.dtype)
