"""Swapping modules of a network in place."""

import copy
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn

from petlbench.blocks import Wrapped
from petlbench.errors import Unsupported

NO_BIAS = "it learned a bias, for which a layer of this network has no place"

Make = Callable[[Any], nn.Module]  # the module found -> the one that takes its place


def swap(network: nn.Module, glob: str, make: Make) -> None:
    """Put make(module) in the place of each module whose dotted name matches `glob`.

    What is swapped may hold the old module; only modules that were there at the call are
    replaced. Raises Unsupported where nothing matches, and for a projection that is never called.
    """
    _refuse_uncalled(network, glob)
    if not _replace(network, lambda name, module: fnmatchcase(f".{name}", glob), make):
        raise Unsupported(_nothing_matches(network, glob))


def swap_type(network: nn.Module, kind: type[nn.Module], make: Make) -> None:
    """Put make(module) in the place of each module of a type; there may be none."""
    _replace(network, lambda name, module: isinstance(module, kind), make)


def swap_these(network: nn.Module, made: Mapping[nn.Module, nn.Module]) -> None:
    """Put made[module] in the place of each module that is a key."""
    _replace(network, lambda name, module: module in made, lambda old: made[old])


def _replace(network: nn.Module, wanted: Callable[[str, nn.Module], bool], make: Make) -> int:
    found = [
        (parent, name, module)
        for prefix, parent in network.named_modules()
        for name, module in parent.named_children()
        if wanted(f"{prefix}.{name}".lstrip("."), module)
    ]
    for parent, name, module in found:
        setattr(parent, name, make(module))
    return len(found)


def _refuse_uncalled(network: nn.Module, glob: str) -> None:
    """Timm's EVA and Swin V2 multiply by the weight of `qkv` and add biases of their own."""
    for name, module in network.named_modules():
        if fnmatchcase(f".{name}.qkv", glob) and getattr(module, "q_bias", None) is not None:
            raise Unsupported(
                f"{type(module).__name__} takes the weight of its qkv projection and never calls "
                "it, so that nothing can stand in its place; choose another backbone"
            )


def _nothing_matches(network: nn.Module, glob: str) -> str:
    net = network.block if isinstance(network, Wrapped) else getattr(network, "net", network)
    names = [
        name for name, module in net.named_modules() if next(module.parameters(), None) is not None
    ]
    ends = sorted({name.rpartition(".")[2] for name in names} - {""})
    words = ", ".join(end for end in ends if not end.isdigit())
    return f"no module of {type(net).__name__} matches '{glob}'; its modules end in {words}"


def affine(module: nn.Module, like: nn.Linear) -> nn.Linear:
    """The linear map that an affine `module` is in eval mode, in the type and shape of `like`.

    Read off its answers to the unit vectors, in float64. Raises Unsupported where it has a bias
    and `like` has none.
    """
    exact = copy.deepcopy(module).double().eval()
    unit = torch.eye(like.in_features, dtype=torch.float64, device=like.weight.device)
    with torch.no_grad():
        origin = exact(torch.zeros_like(unit[:1]))
        weight = (exact(unit) - origin).T
    if like.bias is None and origin.any():
        raise Unsupported(NO_BIAS)
    plain = nn.Linear(
        *(like.in_features, like.out_features), bias=like.bias is not None, device=weight.device
    )
    plain.weight = nn.Parameter(weight.to(like.weight.dtype))
    if like.bias is not None:
        plain.bias = nn.Parameter(origin[0].to(like.weight.dtype))
    return plain


class QueryAndValue(nn.Module):
    """A fused qkv projection with something learned beside its query and its value rows."""

    def __init__(self, qkv: nn.Linear, query: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.qkv = qkv
        self.query = query
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return torch.cat([q + self.query(x), k, v + self.value(x)], dim=-1)

    def folded(self) -> nn.Module:
        """One linear map."""
        return affine(self, self.qkv)


class Parallel(nn.Module):
    """op(x) + branch(x): a frozen op with something learned beside it."""

    def __init__(self, op: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.op = op
        self.branch = branch

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Keywords go to the op alone: timm passes masks to its attention."""
        return self.op(x, **kwargs) + self.branch(x)  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """One linear map, where op and branch are linear."""
        return affine(self, cast(nn.Linear, self.op))
