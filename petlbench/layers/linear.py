"""Linear layers whose trained weights keep few bytes for backward."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.layers.kept import is_recorded, kept


class Linear(nn.Linear):
    """torch's linear layer with the same outputs and gradients.

    For the gradient of a trained weight it keeps what kept.py says of its input, and under
    autocast no copy of the weight. A frozen one keeps neither, as in torch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return product(x, self.weight, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `Linear` computes, x W^T + b: (..., in), (out, in), (out) -> (..., out)"""
    if not (weight.requires_grad and is_recorded()):
        return F.linear(x, weight, bias)
    return _Product.apply(x, weight, bias)  # type: ignore[no-any-return]


def autocast_format(x: Tensor) -> torch.dtype | None:
    """The format to which autocast changes x in a matrix product; None if it leaves x alone."""
    kind = x.device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_on and x.dtype != torch.float64 else None


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """A context without autocast on a type of device, such as cuda."""
    # autocast does not know tensors without values, on which costs are counted
    known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if known else nullcontext()


class _Product(torch.autograd.Function):
    """x W^T + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(..., in), (out, in), (out) -> (..., out)"""
        other = autocast_format(x)
        dtype = other or x.dtype
        part = kept(x, dtype)
        ctx.rebuild, ctx.formats = part.rebuild, (dtype, x.dtype)
        ctx.save_for_backward(weight, *part.tensors)
        if other is None:
            return F.linear(x, weight, bias)
        # Cast here and not by autocast, which would cache a copy without a gradient.
        return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
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
