"""The parts of a walk over a network: its embedding, the entries of its stages and its blocks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from petlbench.model.backbone import Backbone
from petlbench.model.stage import Block, Slot


@dataclass(frozen=True)
class Part:
    """What the walk calls in one place.

    modules: of which it consists; None if that is unknown. is_plain: they are those of the
    network as it was built, none of them trained. is_block: it is no embedding or entry.
    """

    call: Block
    modules: tuple[nn.Module, ...] | None
    is_plain: bool
    is_block: bool


@dataclass(frozen=True)
class Link:
    """A part of the prefix that computes something.

    position: among all parts. output: (2, ...), for `examples`.
    """

    position: int
    part: Part
    output: Tensor


def parts_of(backbone: Backbone) -> list[Part]:
    """The parts of the walk, in its order."""
    slots = _slots(backbone)
    contents = [_content(slot) for slot in slots]
    plain = {id(one) for one in (*backbone.plain_modules, *backbone.plain_parameters)}
    others = (*filter(None, contents), backbone.norm, backbone.head)
    inside = {id(module) for part in others for module in part.modules()}
    # the family refers to the whole network, of which this is left
    embedding = tuple(module for module in backbone.net.modules() if id(module) not in inside)
    first = Part(backbone.embed, embedding, _is_plain(embedding, plain), is_block=False)
    entries = {id(stage.entry) for stage in backbone.stages}
    parts = [first]
    for slot, content in zip(slots, contents, strict=True):
        modules = None if content is None else tuple(content.modules())
        is_plain = slot.replacement is None and _is_plain(modules or (), plain)
        parts.append(Part(slot.get(), modules, is_plain, id(slot) not in entries))
    return parts


@contextmanager
def calling(backbone: Backbone, blocks: Sequence[Block]) -> Iterator[None]:
    """Let the walk call others in place of its parts; the network itself stays as it is."""
    slots = _slots(backbone)
    before = [slot.replacement for slot in slots]
    own = vars(backbone).get("embed")  # a method may have set its own
    try:
        backbone.embed = blocks[0]  # type: ignore[method-assign,assignment]
        for slot, block in zip(slots, blocks[1:], strict=True):
            slot.set(block)
        yield
    finally:
        if own is not None:
            backbone.embed = own  # type: ignore[method-assign]
        else:
            vars(backbone).pop("embed", None)
        for slot, replacement in zip(slots, before, strict=True):
            slot.replacement = replacement


def _slots(backbone: Backbone) -> list[Slot]:
    return [slot for stage in backbone.stages for slot in (stage.entry, *stage.blocks.slots)]


def _content(slot: Slot) -> nn.Module | None:
    """The module in a slot, as the network has it; None for a function."""
    if slot.replacement is not None:
        return slot.replacement if isinstance(slot.replacement, nn.Module) else None
    # without what adapts its call, which is made anew for each copy of a network
    return slot.own() if slot.name is None else slot.net.get_submodule(slot.name)


def _is_plain(modules: Sequence[nn.Module], plain: set[int]) -> bool:
    parameters = (one for module in modules for one in module.parameters(recurse=False))
    return all(id(module) in plain for module in modules) and all(
        id(one) in plain and not one.requires_grad for one in parameters
    )
