"""What a layer keeps of its input for backward: nothing that the graph before it keeps anyway.

The output of a LayerNorm or a GELU is a copy of what its input and a few statistics say, and those
its own backward keeps. A layer that needs such an output in backward computes it again from them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F


def is_recorded() -> bool:
    """Whether torch's usual backward is recorded here, which layers may record in another way.

    A compiler chooses itself what backward keeps; torch.func, tangents and traces need operations
    that torch knows.
    """
    return torch.is_grad_enabled() and not (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


@dataclass(frozen=True)
class Kept:
    """Tensors to keep, and a function of them that returns the input."""

    rebuild: Callable[..., Tensor]
    tensors: tuple[Tensor | None, ...]


def kept(x: Tensor, dtype: torch.dtype) -> Kept:
    """What to keep of x (...) for a backward that needs x in the format `dtype`."""
    node = _source(x)
    name = type(node).__name__
    if name in RECIPES and _is_readable():
        rebuild, tensors = RECIPES[name](node)
        return Kept(partial(_again, rebuild, x.shape, x.dtype), tensors)
    # The next norm keeps the residual stream as it is; a copy in 16 bits would be another tensor.
    return Kept(unchanged, (x if name == "AddBackward0" else x.to(dtype),))


def unchanged(tensor: Tensor) -> Tensor:
    """The tensor itself.

    Saved-tensor hooks that unpack with this function only watch what is kept.
    """
    return tensor


def _source(x: Tensor) -> Any:
    """The node of the graph whose output x is, but for its shape; None for a constant or leaf."""
    node = x.grad_fn
    while node is not None and type(node).__name__ in RESHAPES:
        node = node.next_functions[0][0]
    return node


def _is_readable() -> bool:
    """Whether reading what a node keeps does no work.

    Under a checkpoint it would compute the block again, in the middle of its forward pass.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is None or hooks[1] is unchanged


Recipe = tuple[Callable[..., Tensor], tuple[Tensor | None, ...]]


def _norm(node: Any) -> Recipe:
    # Outputs that their own node kept alive would never be freed.
    statistics = node._saved_result1.detach(), node._saved_result2.detach()
    return _normalised, (node._saved_input, *statistics, node._saved_weight, node._saved_bias)


def _normalised(
    x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """(x - mean) rstd weight + bias: x (..., C), mean and rstd (..., 1), weight and bias (C)"""
    y = centred(x, mean, rstd)
    if weight is None:
        return y
    # The order and the fused sum of torch's kernel on the CPU: the bits are the same.
    return y * weight if bias is None else torch.addcmul(bias, y, weight)


def centred(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """(x - mean) rstd: x (..., C), mean and rstd (..., 1)"""
    if not torch.is_grad_enabled():
        return (x - mean).mul_(rstd)
    # Backward is to be differentiated: mean and rstd are functions of x.
    dims = [dim for dim, length in enumerate(mean.shape) if length == 1]
    deviation = x - x.mean(dims, keepdim=True)
    variance = deviation.square().mean(dims, keepdim=True)
    epsilon = (rstd**-2 - variance).detach()
    return deviation * (variance + epsilon).rsqrt()


def _own_norm(node: Any) -> Recipe:
    return _normalised, node.saved_tensors


def _gelu(node: Any) -> Recipe:
    return partial(F.gelu, approximate=node._saved_approximate), (node._saved_self,)


def _again(
    rebuild: Callable[..., Tensor], shape: torch.Size, dtype: torch.dtype, *tensors: Tensor | None
) -> Tensor:
    return rebuild(*tensors).reshape(shape).to(dtype)


# By the names of autograd's nodes.
RECIPES: dict[str, Callable[[Any], Recipe]] = {
    "NativeLayerNormBackward0": _norm,
    "LayerNormProductBackward": _own_norm,
    "GeluBackward0": _gelu,
}
RESHAPES = {"ViewBackward0", "UnsafeViewBackward0"}
