"""Whether a method trains with the class token of its last block as with all tokens: a trial.

It has steps on two images and a copy of the method: with NaN in the other tokens, with the short
block and with the whole one.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petlbench.method import Method
from petlbench.model.stage import Block
from petlbench.model.template import refilled
from petlbench.train.class_token import BlankedBlock, ClassTokenBlock, last_place
from petlbench.train.parts import Part, parts_of
from petlbench.train.precision import Precision
from petlbench.train.prefix import Examples

CPU = torch.device("cpu")
HALVES = (torch.bfloat16, torch.float16)
TOLERANCE = 1e-4  # of logits or a gradient in fp32, relative to the largest number
ROUNDING = 1e-5  # of a gradient in fp32, relative to the largest number of all gradients


def passes(method: Method) -> bool:
    """Whether no NaN reaches the logits, and the short block trains as the whole one."""
    try:
        copy = _with_numbers(method).train()
        place = last_place(copy)
        assert place is not None  # as in the method
        block, part = place[0].own(), place[1]
        with CPU:  # a caller may count on another default device
            blanked = _step(copy, BlankedBlock(block, part).short, is_trained=False)
            whole, short = (
                _step(copy, last, is_trained=True)
                for last in (block, ClassTokenBlock(block, part).short)
            )
    except Exception:  # whatever a block raises that needs all tokens
        return False
    return bool(blanked.logits.isfinite().all()) and short.is_like(whole)


@dataclass(frozen=True)
class Results:
    """What a step computes: logits, buffers, and the gradients of all trained tensors.

    A gradient shows what the logits hide, such as a reading with a small factor.
    """

    logits: Tensor
    buffers: list[Tensor]
    gradients: list[Tensor | None]

    def is_like(self, other: "Results") -> bool:
        """Whether they differ by rounding alone."""
        ours, theirs = self.gradients, other.gradients
        if [one is None for one in ours] != [one is None for one in theirs]:
            return False
        largest = max((float(one.abs().max()) for one in theirs if one is not None), default=0.0)
        pairs = zip((self.logits, *self.buffers), (other.logits, *other.buffers), strict=True)
        return all(_is_close(one, two) for one, two in pairs) and all(
            _is_close(one, two, ROUNDING * largest)
            for one, two in zip(ours, theirs, strict=True)
            if one is not None and two is not None
        )


def _is_close(tensor: Tensor, expected: Tensor, least: float = 0.0) -> bool:
    if torch.equal(tensor, expected):
        return True
    if not tensor.is_floating_point():
        return False  # integers have no rounding
    within = least + TOLERANCE * float(expected.abs().max())
    return torch.allclose(tensor, expected, rtol=0, atol=within)


def _step(method: Method, last: Block, is_trained: bool) -> Results:
    """A step with another last block; is_trained: with backward."""
    *before, _ = parts_of(method.backbone)
    # What the blocks before compute is of no account, and the trial takes as long as one.
    walk = [nn.Identity() if _is_left_out(part) else part.call for part in before]
    examples = Examples(method, Precision("fp32", next(method.parameters()).device))
    tensors = [tensor for tensor in method.parameters() if tensor.requires_grad and is_trained]
    with examples.walk([*walk, last]):
        logits = method(examples.images)
        loss = logits.square().sum()
        gradients = torch.autograd.grad(loss, tensors, allow_unused=True) if tensors else ()
        buffers = [buffer.clone() for buffer in method.buffers()]
    return Results(logits.detach(), buffers, list(gradients))


def _is_left_out(part: Part) -> bool:
    """Whether no hook sees what a block computes."""
    return part.is_block and not any(
        module._forward_hooks or module._forward_pre_hooks for module in part.modules or ()
    )


def _with_numbers(method: Method) -> Method:
    """A copy whose trained tensors are not zero, and which has numbers if the method has none.

    It shares the memory of other tensors with the method, but those in 16 bits, in which rounding
    would hide a difference. Raises ValueError if the copy may call functions of the original.
    """
    # A method may have removed some of the plain ones.
    tensors = [*method.parameters(), *method.buffers(), *method.backbone.plain_parameters]
    draw = torch.Generator().manual_seed(0)
    # One memory for all: a network on meta may be larger than that of the machine.
    pool = torch.empty(max(tensor.numel() for tensor in tensors) + len(tensors), device="cpu")
    pool.normal_(std=0.1, generator=draw)
    starts = itertools.count()  # equal tensors could cancel each other

    def fill(tensor: Tensor) -> Tensor:
        place = CPU if tensor.is_meta else tensor.device
        if tensor.is_meta and not isinstance(tensor, nn.Parameter):
            return torch.ones_like(tensor, device=place)  # such as variances
        if tensor.is_meta or (tensor.requires_grad and not tensor.any()):
            numbers = pool[next(starts) :][: tensor.numel()]
            return numbers.view(tensor.shape).to(place, tensor.dtype)
        if tensor.requires_grad:
            return tensor.detach()  # its hooks get no gradient of a trial
        is_half = isinstance(tensor, nn.Parameter) and tensor.dtype in HALVES
        return tensor.float() if is_half else tensor

    return refilled(method, tensors, fill, is_apart=True)
