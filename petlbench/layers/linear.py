"""Linear layers whose trained weights keep few bytes for backward."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from petlbench.layers.kept import kept


class Linear(nn.Linear):
    """torch's linear layer with the same outputs and gradients.

    For the gradient of a trained weight it keeps what kept.py says of its input, and under
    autocast no copy of the weight. A frozen one keeps neither, as in torch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        trains = self.weight.requires_grad and torch.is_grad_enabled()
        if not trains or torch.compiler.is_compiling():
            return super().forward(x)  # a compiler chooses itself what backward keeps
        return _Product.apply(x, self.weight, self.bias)  # type: ignore[no-any-return]


def autocast_format(x: Tensor) -> torch.dtype:
    """The format in which a matrix product takes x: its own, or that of autocast."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


class _Product(torch.autograd.Function):
    """x W^T + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(..., in), (out, in), (out) -> (..., out)"""
        dtype = autocast_format(x)
        part = kept(x, dtype)
        ctx.rebuild, ctx.formats = part.rebuild, (dtype, x.dtype)
        ctx.save_for_backward(weight, *part.tensors)
        # Cast here and not by autocast, which would cache a copy without a gradient.
        return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """(..., out) -> gradients of x, W and b"""
        weight, *tensors = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        dtype, own = ctx.formats
        rows = grad.reshape(-1, len(weight))
        inputs = ctx.rebuild(*tensors).to(dtype).reshape(-1, weight.shape[1])
        return (
            (grad @ weight.to(dtype)).to(own) if of_x else None,
            (rows.T @ inputs).to(weight.dtype) if of_weight else None,
            rows.sum(0).to(weight.dtype) if of_bias else None,
        )
