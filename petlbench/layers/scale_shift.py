"""Scale and shift of channels."""

from typing import Any

import torch
from torch import Tensor, nn

from petlbench.layers.kept import is_recorded, kept


class ScaleShift(nn.Module):
    """gamma x + beta, channel by channel, with gamma ~ N(1, 0.02^2) and beta ~ N(0, 0.02^2).

    dim: the dimension of x that holds the channels.
    """

    units = 1

    def __init__(self, width: int, dim: int = -1) -> None:
        super().__init__()
        # As in dongzelian/SSF.
        self.scale = nn.Parameter(nn.init.normal_(torch.empty(width), mean=1.0, std=0.02))
        self.shift = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """(..., width, ...) -> the same shape"""
        shape = [1] * x.ndim
        shape[self.dim] = -1
        scale, shift = self.scale.view(shape), self.shift.view(shape)
        if not is_recorded():
            return x * scale + shift
        return _Affine.apply(x, scale, shift)  # type: ignore[no-any-return]


class _Affine(torch.autograd.Function):
    """gamma x + beta, which keeps what kept.py says of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """(...), and gamma and beta that broadcast to it -> the same shape"""
        part = kept(x, x.dtype)
        ctx.rebuild, ctx.own = part.rebuild, x.dtype
        ctx.save_for_backward(scale, *part.tensors)
        return x * scale + shift

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the output -> those of x, gamma and beta"""
        scale, *tensors = ctx.saved_tensors
        of_x, of_scale, of_shift = ctx.needs_input_grad
        return (
            (grad * scale).to(ctx.own) if of_x else None,
            (grad * ctx.rebuild(*tensors)).sum_to_size(scale.shape) if of_scale else None,
            grad.sum_to_size(scale.shape) if of_shift else None,
        )
