"""Swapping modules of a network in place."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from petlbench.errors import Unsupported
from petlbench.model.block import Wrapped

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
