"""The leading parts of a network whose outputs are constant in training, and who reads them.

A part is the embedding, the entry of a stage or a block. Its output is constant if no trained
tensor, random draw, batch statistic or hook acts on it: it then depends on the image alone.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from timm.layers import PatchDropout
from torch import Tensor, nn

from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.drop_path import DropPath, keep_masks
from petlbench.model.stage import Block, Slot
from petlbench.train import random_states
from petlbench.train.precision import Precision

# torch has no public common class of all dropouts and of all batch norms
DROPOUTS = nn.modules.dropout._DropoutNd
BATCH_NORMS = nn.modules.batchnorm._NormBase


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


class StandIn:
    """A part that returns a known output for a known input, and computes all others.

    known: the images of a batch, then the outputs of the links for them; empty if there is none.
    """

    def __init__(self, link: Link, index: int, known: list[Tensor]) -> None:
        self.part = link.part.call
        self.index = index
        self.known = known

    def __call__(self, z: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)"""
        # By identity: a method may also call the part with something else.
        if self.known and z is self.known[self.index]:
            return self.known[self.index + 1]
        return self.part(z)


def stand_ins(parts: Sequence[Part], links: Sequence[Link], known: list[Tensor]) -> list[Block]:
    """What the walk calls instead of its parts."""
    blocks: list[Block] = [part.call for part in parts]
    for index, link in enumerate(links):
        blocks[link.position] = StandIn(link, index, known)
    return blocks


def unread(output: Tensor, images: int) -> Tensor:
    """In place of an output (B, ...) that nobody reads: NaN, so that a mistake shows in the loss.

    It takes no memory.
    """
    nan = torch.full((), math.nan, dtype=output.dtype, device=output.device)
    return nan.expand(images, *output.shape[1:])


class Examples:
    """Training steps on two images without backward, which leave a method as it was."""

    def __init__(self, method: Method, precision: Precision) -> None:
        self.method = method
        self.precision = precision
        example = method.backbone.example()
        self.images = torch.cat([example, example.flip(-1)])  # (2, 3, H, W)

    def logits(self, blocks: Sequence[Block]) -> Tensor:
        """(2, K), with these blocks in the walk; every call draws the same."""
        masks = torch.Generator().manual_seed(0)
        with (
            self.untouched(),
            calling(self.method.backbone, blocks),
            keep_masks(self.method, len(self.images), masks),
            self.precision.autocast(),
        ):
            return self.method(self.images).detach()  # type: ignore[no-any-return]

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Restore random states, and buffers such as the statistics of a batch norm."""
        device = self.images.device
        states = random_states.taken(device)
        buffers = [(buffer, buffer.clone()) for buffer in self.method.buffers()]
        try:
            yield
        finally:
            random_states.restore(states, device)
            for buffer, value in buffers:
                buffer.copy_(value)


def constant_links(parts: Sequence[Part], examples: Examples) -> list[Link]:
    """The links of the prefix in training mode; none if no block is constant."""
    if not _may_be_constant(parts):
        return []
    watched = [_Watched(part.call) for part in parts]
    examples.logits(watched)
    links: list[Link] = []
    z = examples.images
    for position, (part, watch) in enumerate(zip(parts, watched, strict=True)):
        if type(part.call) is nn.Identity:
            continue  # methods for plain ViTs do not call the entry of the one stage
        # only what the part got is known, whatever else a method calls it with
        out = next((output for given, output in watch.calls if given is z), None)
        if out is None or out.requires_grad or not _is_fixed(part):
            break
        links.append(Link(position, part, out.detach()))
        z = out
    links = _repeatable(links, examples)
    return links if any(link.part.is_block for link in links) else []


def read_links(parts: Sequence[Part], links: Sequence[Link], examples: Examples) -> list[int]:
    """Which outputs a method or the first block behind the prefix reads: numbers of the links.

    An output is read if NaN in its place changes the logits, while the next link still gets the
    right value.
    """
    every, last = set(range(len(links))), len(links) - 1

    def logits(read: set[int]) -> Tensor:
        outputs = [
            link.output if index in read else unread(link.output, len(examples.images))
            for index, link in enumerate(links)
        ]
        return examples.logits(stand_ins(parts, links, [examples.images, *outputs]))

    right = logits(every)

    def suffice(read: set[int]) -> bool:
        try:
            return torch.equal(logits(read), right)
        except Exception:  # a method may refuse NaN, for example in a decomposition
            return False

    if suffice({last}):
        return [last]
    read = {index for index in every if index == last or not suffice(every - {index})}
    # outputs may be read by turns: each can be missing alone, and not all of them together
    return sorted(read if suffice(read) else every)


class _Watched:
    """A part that keeps input and output of each call."""

    def __init__(self, part: Block) -> None:
        self.part = part
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, z: Tensor) -> Tensor:
        out = self.part(z)
        self.calls.append((z, out))
        return out


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


def _may_be_constant(parts: Sequence[Part]) -> bool:
    """Whether embedding and first block have no trained tensor; saves a pass where they do."""
    first = next(index for index, part in enumerate(parts) if part.is_block)
    modules = (module for part in parts[: first + 1] for module in part.modules or ())
    return not any(one.requires_grad for module in modules for one in module.parameters(False))


def _is_fixed(part: Part) -> bool:
    """Whether the modules of a part draw nothing and keep the images of a batch apart."""
    return part.modules is not None and not any(map(_is_changing, part.modules))


def _is_changing(module: nn.Module) -> bool:
    if isinstance(module, BATCH_NORMS):
        return module.training or module.running_mean is None
    rate = (
        module.rate
        if isinstance(module, DropPath)
        else module.p
        if isinstance(module, DROPOUTS)
        else module.prob
        if isinstance(module, PatchDropout)
        else 0.0
    )
    return module.training and rate > 0


def _repeatable(links: Sequence[Link], examples: Examples) -> list[Link]:
    """The links up to the first one that draws, or has another output in a second pass."""
    found: list[Link] = []
    z, device = examples.images, examples.images.device
    with examples.untouched(), examples.precision.autocast():
        for link in links:
            states = random_states.taken(device)
            z = link.part.call(z)
            is_same = random_states.equal(states, random_states.taken(device))
            if not (is_same and torch.equal(z, link.output)):
                break
            found.append(link)
    return found
