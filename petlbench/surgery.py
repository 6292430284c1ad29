"""Swapping modules of a network in place."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from petlbench.blocks import WithRope
from petlbench.errors import Unsupported
from petlbench.merge import affine

if TYPE_CHECKING:
    from petlbench.backbone import Backbone

Make = Callable[[Any], nn.Module]  # the module found -> the one that takes its place


def swap(network: nn.Module, glob: str, make: Make) -> None:
    """Put make(module) in the place of each module whose dotted name matches `glob`.

    What is swapped may hold the old module; only modules that were there at the call are
    replaced. Raises Unsupported where nothing matches.
    """
    if not _replace(network, lambda name, module: fnmatchcase(f".{name}", glob), make):
        raise Unsupported(_nothing_matches(network, glob))


def swap_type(network: nn.Module, kind: type[nn.Module], make: Make) -> None:
    """Put make(module) in the place of each module of a type; there may be none."""
    _replace(network, lambda name, module: isinstance(module, kind), make)


def swap_blocks(backbone: "Backbone", make: Callable[[nn.Module, int], nn.Module]) -> None:
    """Put make(block, width) in the place of each block, in the network and in its stages."""
    made: dict[int, nn.Module] = {}
    for stage in backbone.stages:
        for index, block in enumerate(stage.blocks):
            assert isinstance(block, nn.Module)
            own = block.block if isinstance(block, WithRope) else block  # as the network holds it
            made[id(own)] = stage.blocks[index] = make(block, stage.width)
    _replace(backbone.net, lambda name, module: id(module) in made, lambda old: made[id(old)])


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


def _nothing_matches(network: nn.Module, glob: str) -> str:
    net = network.block if isinstance(network, WithRope) else getattr(network, "net", network)
    names = [
        name for name, module in net.named_modules() if next(module.parameters(), None) is not None
    ]
    ends = sorted({name.rpartition(".")[2] for name in names} - {""})
    words = ", ".join(end for end in ends if not end.isdigit())
    return f"no module of {type(net).__name__} matches '{glob}'; its modules end in {words}"


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
