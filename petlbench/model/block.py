"""Transformer blocks taken apart, for methods that act inside them."""

from collections.abc import Callable, Iterable
from typing import Any, cast

from timm.models.eva import EvaBlock
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from petlbench.errors import Unsupported
from petlbench.layers import DropPath


class Wrapped(nn.Module):
    """A block of a network, to be called as block(z) where the network calls it otherwise."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block


class WithRope(Wrapped):
    """A block that wants rotary positions."""

    def __init__(self, block: nn.Module, rope: Callable[[], Tensor]) -> None:
        super().__init__(block)
        self.rope = rope

    def forward(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.block(z, rope=self.rope()))


class ChannelsLast(Wrapped):
    """A block on (B, C, H, W), for z as (B, H, W, C). Nothing is copied: timm's are strided so."""

    def forward(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.block(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class OpenBlock(nn.Module):
    """A pre-norm block with its parts at hand.

    A method derives from this class and writes its equation as `forward`; as it stands it
    computes what timm's block does. `attention` and `mlp` end with the block's layer scale and
    drop path. In a Swin, `attention` takes the whole map (B, H, W, C): windows and shift lie
    inside it. Raises Unsupported for a block of another make.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        if isinstance(block, WithRope):
            self.rope = block.rope
        if isinstance(block, Wrapped):
            block = block.block
        if type(block) not in (Block, SwinTransformerBlock, EvaBlock):
            raise Unsupported(
                f"the method acts inside pre-norm transformer blocks, and {type(block).__name__} "
                "is none; choose another backbone"
            )
        self.block: Any = block

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, C) or (B, H, W, C), as it goes from block to block"""
        z = z + self.attention(self.norm1(z))
        return z + self.mlp(self.norm2(z))

    def norm1(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.block.norm1(z))

    def norm2(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.block.norm2(z))

    def attention(self, n: Tensor) -> Tensor:
        """The attention branch on the normalised n."""
        block = self.block
        if isinstance(block, SwinTransformerBlock):
            return cast(Tensor, block.drop_path1(block._attn(n)))
        if isinstance(block, EvaBlock):
            mixed = block.attn(n, rope=self.rope())
            return cast(Tensor, block.drop_path1(_times(block.gamma_1, mixed)))
        return cast(Tensor, block.drop_path1(block.ls1(block.attn(n))))

    def mlp(self, n: Tensor) -> Tensor:
        """The MLP branch on the normalised n."""
        block = self.block
        out = block.mlp(n)
        if isinstance(block, EvaBlock):
            out = _times(block.gamma_2, out)
        return cast(Tensor, block.drop_path2(block.ls2(out) if hasattr(block, "ls2") else out))

    def own_drop_path(self) -> nn.Module:
        """A drop path of this block's rate that draws for itself."""
        path = self.block.drop_path1
        return DropPath(path.rate) if isinstance(path, DropPath) else nn.Identity()


def plain_vit_blocks(method: str, network: str, blocks: Iterable[object]) -> list[Block]:
    """`blocks` as timm's blocks of a plain ViT.

    Raises Unsupported, naming `method` and `network`, if one is of another type.
    """
    plain = list(blocks)
    if not all(type(block) is Block for block in plain):
        raise Unsupported(f"{method} supports plain ViTs only, not {network}")
    return cast(list[Block], plain)


def _times(gamma: Tensor | None, branch: Tensor) -> Tensor:
    """Layer scale, where the block has one."""
    return branch if gamma is None else gamma * branch
