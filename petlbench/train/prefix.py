"""The leading parts of a network whose outputs are constant in training, and who reads them.

A part is the embedding, the entry of a stage or a block. Its output is constant if no trained
tensor, random draw, batch statistic or hook acts on it: it then depends on the image alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from timm.layers import PatchDropout
from torch import Tensor, nn

from petlbench.method import Method
from petlbench.model.drop_path import DropPath, keep_masks
from petlbench.model.stage import Block
from petlbench.train import random_states
from petlbench.train.parts import Link, Part, calling
from petlbench.train.precision import Precision
from petlbench.train.stand_in import Unread, stand_ins

# torch has no public common class of all dropouts and of all batch norms
DROPOUTS = nn.modules.dropout._DropoutNd
BATCH_NORMS = nn.modules.batchnorm._NormBase


class Examples:
    """Training steps on two images without backward, which leave a method as it was."""

    def __init__(self, method: Method, precision: Precision) -> None:
        self.method = method
        self.precision = precision
        example = method.backbone.example()
        self.images = torch.cat([example, example.flip(-1)])  # (2, 3, H, W)

    def logits(self, blocks: Sequence[Block]) -> Tensor:
        """(2, K), with these blocks in the walk; every call draws the same."""
        with self.walk(blocks):
            return self.method(self.images).detach()  # type: ignore[no-any-return]

    @contextmanager
    def walk(self, blocks: Sequence[Block]) -> Iterator[None]:
        """What a step needs, forward and backward, with these blocks in the walk."""
        masks = torch.Generator().manual_seed(0)
        with (
            self.untouched(),
            calling(self.method.backbone, blocks),
            keep_masks(self.method, len(self.images), masks),
            self.precision.autocast(),
        ):
            yield

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
    """Which outputs a method or the first block behind the prefix reads: numbers of the links."""
    read = {len(links) - 1}

    def noted(index: int) -> Tensor:
        read.add(index)
        return links[index].output

    outputs = [
        Unread.of(link.output.shape, link.output, partial(noted, index))
        for index, link in enumerate(links)
    ]
    examples.logits(stand_ins(parts, links, [examples.images, *outputs]))
    return sorted(read)


class _Watched:
    """A part that keeps input and output of each call."""

    def __init__(self, part: Block) -> None:
        self.part = part
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, z: Tensor) -> Tensor:
        out = self.part(z)
        self.calls.append((z, out))
        return out


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
