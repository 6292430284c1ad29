"""Blocks of a network: called as block(z), and split into their parts for methods."""

from collections.abc import Callable, Iterable
from typing import Any, cast

from timm.models.eva import EvaBlock
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from petlbench.errors import Unsupported
from petlbench.model.drop_path import DropPath


class BlockCall(nn.Module):
    """A module of the network that is called as block(z); the network calls it differently."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block


class WithRope(BlockCall):
    """A block that takes rotary positions as an argument; rope() returns those of the grid."""

    def __init__(self, block: nn.Module, rope: Callable[[], Tensor]) -> None:
        super().__init__(block)
        self.rope = rope  # a partial and no submodule: the network owns its tensors

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        return cast(Tensor, self.block(z, rope=self.rope()))


class ChannelsLast(BlockCall):
    """A module on (B, C, H, W), called with z as (B, H, W, C); views only, nothing is copied."""

    def forward(self, z: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H', W', C'); a block keeps the shape"""
        return cast(Tensor, self.block(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class PreNormBlock(nn.Module):
    """A pre-norm block, z + attention(norm1(z)) and then z + mlp(norm2(z)), with its parts.

    A method derives from this class and writes its equation as `forward`; the class itself has
    the outputs of timm's block. `attention` and `mlp` end with layer scale and drop path of the
    block. In a Swin, `attention` takes the whole map (B, H, W, C) and includes windows and shift.
    """

    def __init__(self, block: nn.Module) -> None:
        """Raises Unsupported for other blocks than those of timm's ViT, Swin and EVA."""
        super().__init__()
        self.rope = block.rope if isinstance(block, WithRope) else _no_positions
        if isinstance(block, BlockCall):
            block = block.block
        # Exact types, because a subclass may compute something else.
        if type(block) not in (Block, SwinTransformerBlock, EvaBlock):
            raise Unsupported(
                "the method acts inside pre-norm transformer blocks and does not support "
                f"{type(block).__name__}; choose another backbone"
            )
        self.block: Any = block

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, C) or (B, H, W, C) -> the same shape"""
        z = z + self.attention(self.norm1(z))
        return z + self.mlp(self.norm2(z))

    def norm1(self, z: Tensor) -> Tensor:
        """The norm before attention: (B, ..., C) -> (B, ..., C)"""
        return cast(Tensor, self.block.norm1(z))

    def norm2(self, z: Tensor) -> Tensor:
        """The norm before the MLP: (B, ..., C) -> (B, ..., C)"""
        return cast(Tensor, self.block.norm2(z))

    def attention(self, n: Tensor) -> Tensor:
        """The attention branch on the normalised n: (B, ..., C) -> (B, ..., C)"""
        block = self.block
        if isinstance(block, SwinTransformerBlock):
            # timm's windows, shift and attention, without norm and skip.
            return cast(Tensor, block.drop_path1(block._attn(n)))
        if isinstance(block, EvaBlock):
            mixed = block.attn(n, rope=self.rope())
            return cast(Tensor, block.drop_path1(_times(block.gamma_1, mixed)))
        return cast(Tensor, block.drop_path1(block.ls1(block.attn(n))))

    def mlp(self, n: Tensor) -> Tensor:
        """The MLP branch on the normalised n: (B, ..., C) -> (B, ..., C)"""
        block = self.block
        out = block.mlp(n)
        if isinstance(block, EvaBlock):
            out = _times(block.gamma_2, out)
        return cast(Tensor, block.drop_path2(block.ls2(out) if hasattr(block, "ls2") else out))

    def own_drop_path(self) -> nn.Module:
        """A new drop path with the rate of this block and masks of its own."""
        path = self.block.drop_path1
        # timm has an Identity where the rate is 0.
        return DropPath(path.rate) if isinstance(path, DropPath) else nn.Identity()


def plain_vit_blocks(method: str, network: str, blocks: Iterable[object]) -> list[Block]:
    """`blocks` as timm's blocks of a plain ViT.

    Raises Unsupported, naming `method` and `network`, if one is of another type.
    """
    plain = list(blocks)
    if not all(type(block) is Block for block in plain):
        raise Unsupported(f"{method} supports plain ViTs only, not {network}")
    return cast(list[Block], plain)


def _no_positions() -> None:
    """For an EVA without rotary positions."""


def _times(gamma: Tensor | None, branch: Tensor) -> Tensor:
    """Layer scale gamma (C,), if the block has one, times a branch (B, N, C)."""
    return branch if gamma is None else gamma * branch
