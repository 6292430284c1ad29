"""The last block, computed for the class token alone where nothing reads its other tokens.

Its attention has the keys and values of all tokens; the query, the projection, the MLP and what a
method adds to them see one token. No method declares that this is right: a trial finds it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.method import Method
from petlbench.model.block import BlockCall
from petlbench.model.stage import Block, Slot
from petlbench.model.template import refilled
from petlbench.train import random_states
from petlbench.train.hooks import StepHook, overridden
from petlbench.train.parts import parts_of
from petlbench.train.precision import Precision
from petlbench.train.prefix import Examples
from petlbench.train.recompute import Held, called_as

CPU = torch.device("cpu")
Last = tuple[Slot, TimmBlock]
TOLERANCE = 1e-4  # of logits in fp32, relative to the largest
# Copies without numbers, on which no trial can run, have the answer of their original.
_OF_COPIES: WeakKeyDictionary[Method, bool] = WeakKeyDictionary()


class ClassTokenBlock(BlockCall):
    """A block of the walk that returns the class token in the place of every token.

    block: what the walk calls. part: timm's block in it. Raises TypeError if it calls norm1 or the
    attention of `part` with something else than `TimmBlock` does. is_used: whether it did.
    """

    def __init__(self, block: nn.Module, part: TimmBlock) -> None:
        super().__init__(block)
        self.part: Any = part  # torch types the parts of a module as Tensor or Module
        self.is_used = False

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        # A constant output may be replayed in other steps, which then have the same bits.
        if not z.requires_grad and not any(one.requires_grad for one in self.block.parameters()):
            return self.block(z)  # type: ignore[no-any-return]
        self.is_used = True
        return self.short(z)

    def short(self, z: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C), a view of (B, 1, C)"""
        n = self.part.norm1(z)
        out = self.of_token(z, n, self.part.attn.qkv(n))
        return out.expand_as(z)  # a method behind it may rely on the shape

    def of_token(self, z: Tensor, n: Tensor, qkv: Tensor) -> Tensor:
        """What follows the projection to qkv: (B, N, C), (B, N, C), (B, N, 3 C) -> (B, 1, C)"""
        norm, attention = self.part.norm1, self.part.attn
        z, n = self.shown(z), self.shown(n)
        with (
            called_as(norm, _only(z, lambda: n)),
            called_as(attention, _only(n, lambda: self.attended(qkv))),
        ):
            return self.block(z)  # type: ignore[no-any-return]

    def shown(self, z: Tensor) -> Tensor:
        """What the block gets of z: (B, N, C) -> (B, 1, C)"""
        return z[:, :1]

    def attended(self, qkv: Tensor) -> Tensor:
        """The attention of the class token: (B, N, 3 C) -> (B, 1, C)"""
        return attended_by_first(self.part.attn, qkv)


class BlankedBlock(ClassTokenBlock):
    """A block that gets NaN in all tokens but the class token, and the attention of that.

    Raises ValueError if it draws random numbers where the short block has fewer tokens.
    """

    def of_token(self, z: Tensor, n: Tensor, qkv: Tensor) -> Tensor:
        """(B, N, C), (B, N, C), (B, N, 3 C) -> (B, N, C)"""
        states = random_states.taken(z.device)
        out = super().of_token(z, n, qkv)
        if not random_states.equal(states, random_states.taken(z.device)):
            raise ValueError("the short block would draw others")
        return out

    def shown(self, z: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        return _padded(z[:, :1], z)

    def attended(self, qkv: Tensor) -> Tensor:
        """(B, N, 3 C) -> (B, N, C)"""
        return _padded(super().attended(qkv), qkv)


def attended_by_first(attention: Attention, qkv: Tensor) -> Tensor:
    """The rest of timm's attention, for the query of the first token: (B, N, 3 C) -> (B, 1, C)"""
    parts = qkv.unflatten(2, (3, attention.num_heads, attention.head_dim))
    q, k, v = parts.permute(2, 0, 3, 1, 4)  # (B, heads, N, C / heads) each
    q, k = attention.q_norm(q[:, :, :1]), attention.k_norm(k)
    if attention.fused_attn:
        rate = attention.attn_drop.p if attention.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
    else:
        weights = (q * attention.scale @ k.transpose(-2, -1)).softmax(-1)
        mixed = attention.attn_drop(weights) @ v
    mixed = attention.norm(mixed.transpose(1, 2).flatten(2))
    out: Tensor = attention.proj_drop(attention.proj(mixed))
    return out


class ShortWalk:
    """Puts the short block into the walk, for a forward pass of training."""

    def __init__(self, slot: Slot, part: TimmBlock) -> None:
        self.slot = slot
        self.whole = slot.own()
        self.short = ClassTokenBlock(self.whole, part)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        # A replayed block stays: it has the whole block's outputs.
        if self.slot.get() is not self.whole:
            yield
            return
        self.slot.set(self.short)
        try:
            yield
        finally:
            self.slot.set(self.whole)


def held(method: nn.Module, before_step: StepHook | None = None) -> Held:
    """The short walk of a method, or no change if that is not enough.

    before_step: of the training; None for the method's own.
    """
    if not isinstance(method, Method) or not is_enough(method, before_step):
        return nullcontext
    return ShortWalk(*cast(Last, _last(method)))


def is_enough(method: Method, before_step: StepHook | None = None) -> bool:
    """Whether the class token of the last block is all that a training of the method reads."""
    # A hook may change what the network reads, or read it itself.
    if method.backbone.pool != "cls" or overridden(method, before_step) or _last(method) is None:
        return False
    if method not in _OF_COPIES:
        return _passes(method)
    return _OF_COPIES[method]


def copied(method: Method, copy: Method) -> None:
    """Note that `copy`, whose tensors have no numbers, is as `method`."""
    _OF_COPIES[copy] = is_enough(method)


def _passes(method: Method) -> bool:
    """Whether no NaN reaches the logits of the trial, and the short block has the same ones."""
    try:
        copy = _with_numbers(method).train()
        last = cast(Last, _last(copy))
        examples = Examples(copy, Precision("fp32", next(copy.parameters()).device))
        with CPU:  # a caller may count on another default device
            whole, short, blanked = (examples.logits(walk) for walk in _walks(copy, *last))
    except Exception:  # whatever a block raises that needs all tokens
        return False
    within = TOLERANCE * float(whole.abs().max())
    return bool(blanked.isfinite().all()) and torch.allclose(short, whole, rtol=0, atol=within)


def _walks(method: Method, slot: Slot, part: TimmBlock) -> Iterator[list[Block]]:
    """Walks with the whole, the short and the blanked block behind the embedding."""
    block = slot.own()
    # What the blocks before compute is of no account, and the trial takes as long as one.
    *before, _ = (nn.Identity() if one.is_block else one.call for one in parts_of(method.backbone))
    for last in (block, ClassTokenBlock(block, part).short, BlankedBlock(block, part).short):
        yield [*before, last]


def _last(method: Method) -> Last | None:
    """The place of the last block, and timm's block in it; None if it has no such block."""
    slot = method.backbone.stages[-1].blocks.slots[-1]
    if slot.replacement is not None:
        return None
    parts = [part for part in slot.own().modules() if type(part) is TimmBlock]
    attention = parts[0].attn if len(parts) == 1 else None
    is_known = type(attention) is Attention and attention.gate is None
    return (slot, parts[0]) if is_known else None


def _with_numbers(method: Method) -> Method:
    """A copy whose trained tensors are not zero, and which has numbers if the method has none.

    It shares the other tensors with the method.
    """
    # A method may have removed some of the plain ones.
    tensors = [*method.parameters(), *method.buffers(), *method.backbone.plain_parameters]
    draw = torch.Generator().manual_seed(0)
    # One memory for all: a network on meta may be larger than that of the machine.
    pool = torch.empty(max(tensor.numel() for tensor in tensors), device="cpu")
    pool.normal_(std=0.1, generator=draw)

    def fill(tensor: Tensor) -> Tensor:
        place = CPU if tensor.is_meta else tensor.device
        if tensor.is_meta and not isinstance(tensor, nn.Parameter):
            return torch.ones_like(tensor, device=place)  # such as variances
        if tensor.is_meta or (tensor.requires_grad and not tensor.any()):
            return pool[: tensor.numel()].view(tensor.shape).to(place, tensor.dtype)
        return tensor

    return refilled(method, tensors, fill)


def _only(expected: Tensor, result: Callable[[], Tensor]) -> Callable[..., Tensor]:
    """The forward pass of a module that has to be called with one tensor and nothing else."""

    def forward(x: Tensor, **options: Any) -> Tensor:
        if x is not expected or any(options.values()):
            raise TypeError("the block calls its parts with something else")
        return result()

    return forward


def _padded(token: Tensor, z: Tensor) -> Tensor:
    """(B, 1, C) -> (B, N, C) as z, with NaN behind the first token"""
    return F.pad(token, (0, 0, 0, z.shape[1] - 1), value=math.nan)
