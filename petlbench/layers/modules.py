"""Low-rank pairs, bottlenecks, activations, and modules around a frozen one."""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import fraction, positive, size, whole
from petlbench.errors import Unsupported

NO_BIAS = "it learned a bias, but the layer has none"


class LowRank(nn.Module):
    """up(dropout(down(x))) without biases, x A^T B^T: the update that LoRA and DTL learn.

    `down.weight` (rank, width) starts Kaiming-uniform and `up.weight` (out, rank) at zero, so a
    network with the update added starts as it was.
    """

    units = 1

    def __init__(self, width: int, out: int, rank: int, dropout: float = 0.0) -> None:
        super().__init__()
        rank = whole("method.rank", rank, low=1, high=width, of="the width of the layer")
        # torch's default start of a linear map is Kaiming-uniform with bound 1 / sqrt(width).
        self.down = nn.Linear(width, rank, bias=False)
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.up = nn.Linear(rank, out, bias=False)  # after the dropout, as in JieShibo/PETL-ViT
        nn.init.zeros_(self.up.weight)

    def codes(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., rank)"""
        return self.dropout(self.down(x))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., out)"""
        return self.up(self.codes(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """up(dropout(activation(down(x)))): the body of an adapter.

    `down.weight` (rank, width) starts Kaiming-uniform; `up.weight` (width, rank) and the biases
    start at zero, so a network with the term added starts as it was.
    """

    units = 1

    def __init__(
        self, width: int, rank: int, activation: nn.Module, dropout: float, *, bias: bool = True
    ) -> None:
        super().__init__()
        rank = size("method.rank", rank)
        self.down = nn.Linear(width, rank, bias=bias)
        self.activation = activation
        self.dropout = nn.Dropout(fraction("method.dropout", dropout))
        self.up = nn.Linear(rank, width, bias=bias)
        # With W_d zero too, neither matrix would get a gradient, only the bias b_u.
        for tensor in (self.up.weight, self.down.bias, self.up.bias):
            if tensor is not None:
                nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)"""
        return self.up(self.dropout(self.activation(self.down(x))))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """x + op(x)."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> the same shape"""
        return x + self.op(x)  # type: ignore[no-any-return]


class GroupedLinear(nn.Module):
    """A linear map with a block-diagonal weight: each group of outputs sees a group of inputs.

    `weight` (out, width / groups) stacks the blocks; `bias` is (out,).
    """

    def __init__(self, width: int, out: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        # torch's bound for the fan-in of one group.
        self.weight = nn.Parameter(nn.Linear(width // groups, out).weight.detach())
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., out)"""
        # (..., width / groups) and (out / groups, width / groups) of each group
        pairs = zip(x.chunk(self.groups, dim=-1), self.weight.chunk(self.groups), strict=True)
        return torch.cat([F.linear(part, block) for part, block in pairs], dim=-1) + self.bias


class Chosen(nn.Module):
    """Indices (K,) that are chosen from the training data before training."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)  # persistent, so that a delta stores it

    def choose(self, scores: Tensor) -> None:
        """Set the K indices to those of the highest scores (N,), in ascending order."""
        self.index.copy_(scores.topk(len(self.index)).indices.sort().values)


class Scaled(nn.Module):
    """scale * op(x) with a fixed scale."""

    def __init__(self, scale: float, op: nn.Module) -> None:
        super().__init__()
        self.scale = positive("method.scale", scale)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """The shapes of `op`."""
        return self.scale * self.op(x)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class Swish(nn.Module):
    """z sigmoid(beta z), https://arxiv.org/abs/1710.05941; close to ReLU for a large beta."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = positive("method.beta", beta)

    def forward(self, z: Tensor) -> Tensor:
        """(...) -> the same shape"""
        return z * torch.sigmoid(self.beta * z)

    def extra_repr(self) -> str:
        return f"beta={self.beta}"


class QuickGELU(Swish):
    """z sigmoid(1.702 z), which approximates GELU, https://arxiv.org/abs/1606.08415."""

    def __init__(self) -> None:
        super().__init__(1.702)


class DepthwiseConv(nn.Conv2d):
    """One kernel x kernel filter per channel, without bias; the output has the input's size.

    With an even kernel the additional row and column of zeros lie at the bottom and on the right,
    as for torch's `padding="same"`.
    """

    units = 1

    def __init__(self, width: int, kernel: int) -> None:
        kernel = size("method.kernel", kernel)
        half = (kernel - 1) // 2
        super().__init__(width, width, kernel, padding=half, groups=width, bias=False)
        self.extra = kernel - 1 - 2 * half

    def forward(self, z: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, H, W)"""
        return super().forward(F.pad(z, (0, self.extra, 0, self.extra)) if self.extra else z)


def affine(module: nn.Module, like: nn.Linear) -> nn.Linear:
    """The linear layer with the outputs of an affine `module` in eval mode, shaped as `like`.

    module: (..., in) -> (..., out). Its outputs for zero and for unit vectors, in float64, give b
    and W. Raises Unsupported if b is not zero and `like` has no bias.
    """
    # A copy, because double() converts in place. W is a difference of outputs: in float32
    # it would lose digits.
    exact = copy.deepcopy(module).double().eval()
    unit = torch.eye(like.in_features, dtype=torch.float64, device=like.weight.device)
    with torch.no_grad():
        bias = exact(torch.zeros_like(unit[:1]))
        weight = (exact(unit) - bias).T
    if like.bias is None and bias.any():
        raise Unsupported(NO_BIAS)
    plain = nn.Linear(
        *(like.in_features, like.out_features), bias=like.bias is not None, device=weight.device
    )
    plain.weight = nn.Parameter(weight.to(like.weight.dtype))  # (out, in)
    if like.bias is not None:
        plain.bias = nn.Parameter(bias[0].to(like.weight.dtype))
    return plain


class QueryAndValue(nn.Module):
    """A fused qkv projection with updates of query and value: q + query(x), k, v + value(x)."""

    def __init__(self, qkv: nn.Linear, query: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.qkv = qkv
        self.query = query
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        # (..., d) each: timm stacks their rows in one weight.
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return torch.cat([q + self.query(x), k, v + self.value(x)], dim=-1)

    def folded(self) -> nn.Module:
        """One linear layer, if query and value are linear."""
        return affine(self, self.qkv)


class Parallel(nn.Module):
    """op(x) + branch(x): a frozen op and a trained branch."""

    def __init__(self, op: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.op = op
        self.branch = branch

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """The shapes of `op`, which alone takes keywords: timm passes masks to its attention."""
        return self.op(x, **kwargs) + self.branch(x)  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """One linear layer, if op and branch are linear."""
        return affine(self, cast(nn.Linear, self.op))
