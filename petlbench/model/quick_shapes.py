"""Shapes of common operations on the meta device, without torch's decompositions in Python.

On meta torch runs these operations as many smaller ones in Python: a LayerNorm takes 0.6 ms, and
a forward pass of ViT-B/16 60 ms, most of it for what is known at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class QuickShapes(TorchFunctionMode):
    """Empty tensors of the right shape for the operations in QUICK; without gradients.

    It covers tensors of one type on meta, most of them contiguous; all else is torch's, and so
    are all errors.
    A random permutation is the identity, also on the CPU, where networks draw places in weights.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Hook of torch, called for every function."""
        named = kwargs or {}
        quick = QUICK.get(func)
        found = None if quick is None else quick(*args, **named)
        return func(*args, **named) if found is None else found


def _are_alike(*tensors: Any) -> bool:
    """Whether all are meta tensors of one type."""
    return all(
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.is_meta
        and tensor.dtype == tensors[0].dtype
        for tensor in tensors
    )


def _are_plain(*tensors: Any) -> bool:
    """Whether they are also contiguous, as the result is then."""
    return _are_alike(*tensors) and all(tensor.is_contiguous() for tensor in tensors)


def _same(input: Tensor, **others: Any) -> Tensor | None:
    """(...) -> (...), as an activation"""
    return torch.empty_like(input) if _are_plain(input) else None


def _sum(x: Tensor, y: Any, **others: Any) -> Tensor | None:
    """(...), (...) or a number -> (...), as an entrywise product too"""
    if others or not _are_plain(x):
        return None
    if type(y) is float and x.is_floating_point():
        return torch.empty_like(x)
    return x.new_empty(torch.broadcast_shapes(x.shape, y.shape)) if _are_plain(x, y) else None


def _drawn(x: Tensor, *bounds: Any, **others: Any) -> Tensor | None:
    """(...) -> (...), in place"""
    return x if x.is_meta else None


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    """(..., *shape), shape, shape -> (..., *shape)"""
    weights = [tensor for tensor in (weight, bias) if tensor is not None]
    last = tuple(input.shape[-len(normalized_shape) :])
    fits = all(tuple(shape) == last for shape in (normalized_shape, *(t.shape for t in weights)))
    return torch.empty_like(input) if fits and _are_plain(input, *weights) else None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """(..., in), (out, in), (out) -> (..., out)"""
    if bias is None or bias.shape != weight.shape[:1] or not _are_plain(input, weight, bias):
        return None
    return F.linear(input, weight)  # fast without a bias


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """(B, H, N, d), (B, H, M, d), (B, H, M, e) -> (B, H, N, e), contiguous whatever the inputs"""
    fits = query.dim() == 4 and query.shape[:2] == key.shape[:2] == value.shape[:2]
    fits = fits and query.shape[3] == key.shape[3] and key.shape[2] == value.shape[2]
    if attn_mask is not None or not fits or not _are_alike(query, key, value):
        return None
    return query.new_empty(*query.shape[:3], value.shape[3])


def _block_diagonal(*blocks: Tensor) -> Tensor | None:
    """(n, m) each -> (sum of n, sum of m)"""
    if not _are_plain(*blocks) or any(block.dim() != 2 for block in blocks):
        return None
    return blocks[0].new_empty(sum(len(b) for b in blocks), sum(b.shape[1] for b in blocks))


def _permutation(n: int, *, generator: Any = None, **others: Any) -> Tensor:
    """(n)"""
    return torch.arange(n, **others)


# their parameters have torch's names, since callers may use them
QUICK: dict[Any, Callable[..., Any]] = {
    F.gelu: _same,
    F.layer_norm: _layer_norm,
    F.linear: _linear,
    F.scaled_dot_product_attention: _attention,
    Tensor.add: _sum,
    Tensor.mul: _sum,
    Tensor.normal_: _drawn,
    Tensor.uniform_: _drawn,
    torch.block_diag: _block_diagonal,
    torch.randperm: _permutation,
}
