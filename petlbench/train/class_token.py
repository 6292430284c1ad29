"""A block of a plain ViT, computed for the class token alone, or for it beside NaN."""

import math
from collections.abc import Callable
from typing import Any

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.method import Method
from petlbench.model.block import BlockCall
from petlbench.model.stage import Slot
from petlbench.train import random_states
from petlbench.train.recompute import called_as


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
            called_as(attention, _only(n, lambda: attended(attention, self.shown, qkv))),
        ):
            return self.block(z)  # type: ignore[no-any-return]

    def shown(self, z: Tensor) -> Tensor:
        """What the block gets of z: (B, N, C) -> (B, 1, C)"""
        return z[:, :1]


class BlankedBlock(ClassTokenBlock):
    """A block that gets NaN in all tokens but the class token, behind its projection to qkv.

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
        return F.pad(z[:, :1], (0, 0, 0, z.shape[1] - 1), value=math.nan)


def attended(attention: Attention, shown: Callable[[Tensor], Tensor], qkv: Tensor) -> Tensor:
    """The rest of timm's attention, for the queries of the shown tokens.

    shown: (B, N, C) -> (B, M, C); then (B, N, 3 C) -> (B, M, C)
    """
    query, key, value = qkv.chunk(3, -1)
    parts = (part.unflatten(2, (attention.num_heads, -1)) for part in (shown(query), key, value))
    q, k, v = (part.transpose(1, 2) for part in parts)  # (B, heads, M or N, C / heads)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if attention.fused_attn:
        rate = attention.attn_drop.p if attention.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
    else:
        weights = (q * attention.scale @ k.transpose(-2, -1)).softmax(-1)
        mixed = attention.attn_drop(weights) @ v
    mixed = attention.norm(mixed.transpose(1, 2).flatten(2))
    out: Tensor = attention.proj_drop(attention.proj(mixed))
    return out


def last_place(method: Method) -> tuple[Slot, TimmBlock] | None:
    """The place of the last block, and timm's block in it; None if it has no such block."""
    slot = method.backbone.stages[-1].blocks.slots[-1]
    if slot.replacement is not None:
        return None
    parts = [part for part in slot.own().modules() if type(part) is TimmBlock]
    attention = parts[0].attn if len(parts) == 1 else None
    is_known = type(attention) is Attention and attention.gate is None
    return (slot, parts[0]) if is_known else None


def _only(expected: Tensor, result: Callable[[], Tensor]) -> Callable[..., Tensor]:
    """The forward pass of a module that has to be called with one tensor and nothing else."""

    def forward(x: Tensor, **options: Any) -> Tensor:
        if x is not expected or any(options.values()):
            raise TypeError("the block calls its parts with something else")
        return result()

    return forward
