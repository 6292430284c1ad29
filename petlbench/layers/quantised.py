"""Linear layers whose frozen weights are quantised.

The codes are buffers outside the state of the network, since they are computed again from the
pre-trained weights. A product decodes them, forward and backward, so that one layer at a time has
its weights in full.
"""

import importlib.util
import logging
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.errors import UserError
from petlbench.layers.kept import is_recorded
from petlbench.layers.linear import Linear, autocast_format

CODES = "codes_{}"  # names of the buffers


class Format(ABC):
    """The codes of a weight (out, in); package: what they need beside torch."""

    package: str = ""

    @abstractmethod
    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        """(out, in) -> codes"""

    @abstractmethod
    def decode(self, shape: tuple[int, int], *codes: Tensor) -> Tensor:
        """Codes -> the weight of that shape, float32, or float64 where the codes have it."""


class BFloat16(Format):
    """bfloat16, two bytes a weight."""

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        """(out, in) -> the same in bfloat16"""
        return (weight.bfloat16(),)

    def decode(self, shape: tuple[int, int], *codes: Tensor) -> Tensor:
        """Exact"""
        return codes[0].float()


class Int8(Format):
    """Eight bits a weight and a scale for each output: the row's largest magnitude is 127."""

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        """(out, in) -> integers (out, in) and scales (out, 1)"""
        # a row of zeros has no scale of its own
        scale = (weight.abs().amax(1, keepdim=True) / 127).clamp_min(torch.finfo().tiny)
        return (weight / scale).round().to(torch.int8), scale

    def decode(self, shape: tuple[int, int], *codes: Tensor) -> Tensor:
        """Integers times the scale of their row"""
        integers, scale = codes
        return integers * scale


class NF4(Format):
    """NF4, four bits a weight and a scale for each 64 weights (QLoRA, appendix E, 2305.14314).

    bitsandbytes has the kernels, on GPUs and on CPUs.
    """

    package = "bitsandbytes"
    block = 64

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        """(out, in) -> two weights a byte (out * in / 2, 1) and scales (blocks)"""
        operator = self._operators().quantize_4bit
        codes, scales = operator(weight.float().contiguous(), self.block, "nf4", torch.uint8)
        return codes, scales

    def decode(self, shape: tuple[int, int], *codes: Tensor) -> Tensor:
        """The level of each code times the scale of its block"""
        operator = self._operators().dequantize_4bit
        weight: Tensor = operator(*codes, self.block, "nf4", shape, torch.float32)
        return weight

    def _operators(self) -> Any:
        # At its import it misses kernels that nothing here uses.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        import bitsandbytes  # noqa: F401  (imported late: it takes a second; registers operators)

        return torch.ops.bitsandbytes


FORMATS: dict[str, Format] = {"bf16": BFloat16(), "int8": Int8(), "nf4": NF4()}


def check(name: str) -> None:
    """Raise UserError if the package of a format is missing."""
    package = FORMATS[name].package
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f"backbone.weights={name} needs the package {package}; "
            f"pip install 'petlbench[{name}]', or set backbone.weights=int8"
        )


class QuantisedLinear(Linear):
    """A linear layer with its frozen weight in a `Format`; the bias, which may train, is whole.

    `weight` is decoded at each use.
    """

    format: str

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight that the codes stand for, (out, in)."""
        return FORMATS[self.format].decode((self.out_features, self.in_features), *self.codes())

    def codes(self) -> tuple[Tensor, ...]:
        """The tensors in the place of the weight."""
        places = (CODES.format(number) for number in range(len(self._buffers)))
        return tuple(self._buffers[place] for place in places)  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        if not is_recorded():
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return F.linear(x, self.weight.to(x.dtype), bias)
        y: Tensor = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    """x W^T; backward decodes W again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        """(..., in) -> (..., out)"""
        dtype = autocast_format(x) or x.dtype
        ctx.layer, ctx.formats = layer, (dtype, x.dtype)
        return F.linear(x.to(dtype), layer.weight.to(dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """(..., out) -> the gradient of x"""
        dtype, own = ctx.formats
        return (grad @ ctx.layer.weight.to(dtype)).to(own), None


def quantise(layer: nn.Linear, name: str) -> None:
    """Make a linear layer, in place, one that holds its weight in a format of FORMATS."""
    codes = FORMATS[name].encode(layer.weight.detach())
    del layer.weight  # before the class changes: in QuantisedLinear it is no parameter
    changed: Any = layer
    changed.__class__, changed.format = QuantisedLinear, name
    for number, tensor in enumerate(codes):
        layer.register_buffer(CODES.format(number), tensor, persistent=False)


def dequantise(network: nn.Module) -> None:
    """Decode the weights of a network, in place; its layers are then `Linear` again."""
    for layer in network.modules():
        if isinstance(layer, QuantisedLinear):
            weight = nn.Parameter(layer.weight, requires_grad=False)
            for number in range(len(layer.codes())):
                delattr(layer, CODES.format(number))
            changed: Any = layer
            changed.__class__, changed.weight = Linear, weight
