"""Swapping modules of a network in place."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from petlbench.errors import Unsupported

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
    net = getattr(network, "net", network)
    names = [
        name for name, module in net.named_modules() if next(module.parameters(), None) is not None
    ]
    ends = sorted({name.rpartition(".")[2] for name in names} - {""})
    words = ", ".join(end for end in ends if not end.isdigit())
    return f"no module of {type(net).__name__} matches '{glob}'; its modules end in {words}"


class Parallel(nn.Module):
    """op(x) + branch(x): a frozen op with something learned beside it."""

    def __init__(self, op: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.op = op
        self.branch = branch

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Keywords go to the op alone: timm passes masks to its attention."""
        return self.op(x, **kwargs) + self.branch(x)  # type: ignore[no-any-return]
