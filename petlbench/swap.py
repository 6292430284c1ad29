"""Replacing modules of a network in place."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from petlbench.errors import Unsupported

# Modules are replaced, not hooked: a deep copy's hook would call the original's branch.
Make = Callable[[Any], nn.Module]  # old module -> new module, which may hold the old one
Matches = Callable[[str, nn.Module], bool]  # dotted name and module


def swap(network: nn.Module, glob: str, make: Make) -> None:
    """Replace each module whose dotted name matches `glob` by make(module).

    `*` also matches dots. A new module is called as the network calls the old one: a block of
    DINOv3 with `rope=`, one of ConvNeXt on (B, C, H, W); `Backbone.swap_blocks` replaces blocks
    that are called as block(z). Raises Unsupported if no module matches, or if the network uses
    the weight of the old module without calling it.
    """
    _refuse_uncalled(network, lambda name, module: _matches(name, glob))
    if not _replace(network, lambda name, module: _matches(name, glob), make):
        raise Unsupported(_nothing_matches(network, glob))


def swap_qkv(network: nn.Module, fused: Make, apart: Mapping[str, Make]) -> None:
    """Replace each fused projection `attn.qkv`, or projections that a network has apart (EVA-02).

    apart: makers by the names of the latter, some of `q_proj`, `k_proj` and `v_proj`. Raises
    Unsupported as `swap` does.
    """
    if not has(network, "*.attn.q_proj"):
        swap(network, "*.attn.qkv", fused)
        return
    for name, make in apart.items():
        swap(network, f"*.attn.{name}", make)


def has(network: nn.Module, glob: str) -> bool:
    """Whether the dotted name of a module matches `glob`, as for `swap`."""
    return any(_matches(name, glob) for name, _ in network.named_modules())


def matching(network: nn.Module, glob: str) -> list[tuple[str, nn.Module]]:
    """The modules whose dotted names match `glob`, with their names.

    Raises Unsupported as `swap` does.
    """
    _refuse_uncalled(network, lambda name, module: _matches(name, glob))
    found = [(name, module) for name, module in network.named_modules() if _matches(name, glob)]
    if not found:
        raise Unsupported(_nothing_matches(network, glob))
    return found


def _matches(name: str, glob: str) -> bool:
    # with a dot in front, *.attn.qkv matches the attn.qkv of a block too
    return fnmatchcase(name, glob) or fnmatchcase(f".{name}", glob)


def swap_type(network: nn.Module, kind: type[nn.Module], make: Make) -> None:
    """Replace each module of a type, if there is one, by make(module)."""
    _replace(network, lambda name, module: isinstance(module, kind), make)


def swap_these(network: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Replace each module that is a key of `new` by its value.

    Raises Unsupported if the network uses the weight of one of them without calling it.
    """
    _refuse_uncalled(network, lambda name, module: module in new)
    _replace(network, lambda name, module: module in new, lambda old: new[old])


def _replace(network: nn.Module, matches: Matches, make: Make) -> int:
    """Replace modules and return their number; modules that `make` brings are not searched."""
    # Listed first, because replacing changes what named_modules walks through.
    places = [
        (parent, name, module)
        for prefix, parent in network.named_modules()
        for name, module in parent.named_children()
        if matches(f"{prefix}.{name}".lstrip("."), module)
    ]
    for parent, name, module in places:
        setattr(parent, name, make(module))
    return len(places)


def _refuse_uncalled(network: nn.Module, matches: Matches) -> None:
    """Timm's EVA and Swin V2 multiply by the weight of `qkv` and add their own biases."""
    for name, module in network.named_modules():
        if getattr(module, "q_bias", None) is None:
            continue
        if matches(f"{name}.qkv".lstrip("."), getattr(module, "qkv", module)):
            raise Unsupported(
                f"{type(module).__name__} uses the weight of its qkv projection without calling "
                "it, so the projection cannot be replaced; choose another backbone"
            )


def _nothing_matches(network: nn.Module, glob: str) -> str:
    net = getattr(network, "net", getattr(network, "block", network))  # of backbone or block
    names = [
        name for name, module in net.named_modules() if next(module.parameters(), None) is not None
    ]
    ends = sorted({name.rpartition(".")[2] for name in names} - {""})
    words = ", ".join(end for end in ends if not end.isdigit())
    return f"no module of {type(net).__name__} matches '{glob}'; its modules end in {words}"
