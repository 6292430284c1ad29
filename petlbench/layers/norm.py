"""LayerNorms whose trained weights have the same gradients for any number of threads."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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
        if not (trains and is_real and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return F.layer_norm(x, self.normalized_shape, *weights, self.eps)
        return cast(Tensor, LayerNormProduct.apply(x, *weights, self.eps))


class TimmLayerNorm(LayerNorm):
    """`LayerNorm` in the place of timm's class of that name."""


class LayerNorm2d(LayerNorm):
    """`LayerNorm` over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerNormProduct(torch.autograd.Function):
    """(x - mean) rstd weight + bias over the last dimension."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """(..., C), (C), (C) -> (..., C)"""
        y, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the output -> those of x, weight and bias"""
        x, mean, rstd, weight, bias = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        rows = (-1, x.shape[-1])
        inputs = torch.ops.aten.native_layer_norm_backward(
            *(grad, x, x.shape[-1:], mean, rstd, weight, bias, [of_x, False, False])
        )
        centred = (x - mean) * rstd if of_weight else None
        return (
            inputs[0],
            None if centred is None else _summed(grad * centred, rows, weight),
            _summed(grad, rows, bias) if of_bias else None,
            None,
        )


def _summed(terms: Tensor, rows: tuple[int, int], like: Tensor) -> Tensor:
    return terms.reshape(rows).sum(0).to(like.dtype)
