"""Token merging inside a block, for FPET (fpet.py).

Faster Parameter-Efficient Tuning with Token Redundancy Reduction, https://arxiv.org/abs/2503.20282;
kyk120/fpet @ 17a45e76.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from petlbench.errors import Unsupported
from petlbench.layers import Residual
from petlbench.layers.linear import without_autocast
from petlbench.methods.adaptformer import ParallelBlock
from petlbench.methods.binary import BinaryBranch
from petlbench.model.block import PreNormBlock
from petlbench.model.tokens import Tokens

# The flash kernel takes no mask, and that of cuDNN has no gradient of one.
WITH_GRADIENT_OF_MASK = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def checkerboard(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Numbers of the patches that are merged (S,), and of those that stay (T,), row by row.

    Merged are the even columns of even rows, then the odd columns of odd rows. Of those that stay,
    odd rows come first.
    """
    row, column = torch.arange(height)[:, None], torch.arange(width)
    number = row * width + column  # (H, W)
    sources = [number[start::2, start::2] for start in (0, 1)]
    targets = [number[start::2, 1 - start :: 2] for start in (1, 0)]
    return _joined(sources), _joined(targets)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


class TokenMerging(nn.Module):
    """Adds every second patch to the patch with the most similar key; the rest of the tokens stay.

    K <- K + W_u dropout(ReLU(W_d K)), the refinement, whose two matrices have a few bits per
    weight; K is detached, so only the refinement learns here. S = K_s K_t^T of the normalised
    keys, t the mean of the two largest values of a row, P = sigmoid(S - t). The match is 1 where
    P > 1/2, so at the largest value alone, with the gradient of P. A token is the mean of what
    was merged into it.
    """

    def __init__(
        self, tokens: Tokens, head_width: int, rank: int, bits: int, dropout: float
    ) -> None:
        """head_width: channels of one attention head. Raises Unsupported for a grid too small."""
        super().__init__()
        sources, targets = checkerboard(*tokens.grid)
        if len(targets) < 2:  # t needs two values
            raise Unsupported(
                f"FPET merges no patches of a {tokens.grid[0]} x {tokens.grid[1]} grid; it needs "
                "2 x 2 or more, so set input.size higher"
            )
        self.prefix = tokens.prefix
        # Not persistent: they follow from the grid, so a delta does not store them.
        self.register_buffer("sources", self.prefix + sources, persistent=False)
        self.register_buffer("targets", self.prefix + targets, persistent=False)
        self.sources: Tensor
        self.targets: Tensor
        self.refinement = Residual(BinaryBranch(head_width, rank, bits, dropout, nn.ReLU()))

    def forward(self, z: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, P + N, d), keys (B, P + N, d_h) -> tokens (B, P + T, d), sizes (B, P + T)

        Sizes count the patches in a token.
        """
        # 16-bit products round the similarities of neighbours to equal values.
        with without_autocast(z.device.type):
            refined = F.normalize(self.refinement(keys.detach().to(z.dtype)), dim=-1)
            match = matches(refined[:, self.sources], refined[:, self.targets])  # (B, S, T)
            sizes = 1 + match.sum(1)  # (B, T)
            sums = z[:, self.targets] + match.mT @ z[:, self.sources]
            means = sums / sizes.unsqueeze(-1)
        prefix = z[:, : self.prefix]
        ones = sizes.new_ones(len(z), self.prefix)
        return torch.cat([prefix, means], dim=1), torch.cat([ones, sizes], dim=1)


def matches(sources: Tensor, targets: Tensor) -> Tensor:
    """Keys (B, S, d_h) and (B, T, d_h) -> (B, S, T), 1 at the most similar target of a source

    A source whose two best targets are equal has none.
    """
    similarity = sources @ targets.mT
    threshold = similarity.topk(2, dim=-1).values.mean(-1, keepdim=True)  # t, (B, S, 1)
    soft = torch.sigmoid(similarity - threshold)  # P
    hard = (soft > 0.5).to(soft.dtype)
    return soft + (hard - soft).detach()  # exactly `hard`, with the gradient of `soft`


class SizedBlock(PreNormBlock):
    """A block on tokens of several sizes: attention adds log(size) of a key to its logits.

    z has d + 1 channels, the last of them log(size), so that a block is still called as block(z).
    The block may be one of AdaptFormer's, with a branch beside its MLP.
    """

    def __init__(self, block: nn.Module) -> None:
        parallel = block if isinstance(block, ParallelBlock) else None
        super().__init__(block if parallel is None else parallel.block)
        self.branch = None if parallel is None else parallel.branch

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d + 1) -> (B, N, d + 1)"""
        tokens, log_sizes = z[..., :-1], z[..., -1]
        block, n = self.block, self.norm1(tokens)
        with sdpa_kernel(WITH_GRADIENT_OF_MASK):
            # One row (1, N) for all heads and queries of an image.
            mixed = block.attn(n, attn_mask=log_sizes[:, None, None])
        tokens = tokens + block.drop_path1(block.ls1(mixed))
        return self.after_attention(tokens, log_sizes)

    def after_attention(self, y: Tensor, log_sizes: Tensor) -> Tensor:
        """Tokens (B, N, d) and (B, N) -> (B, N, d + 1): MLP and branch, and the sizes again"""
        out = y + self.mlp(self.norm2(y))
        if self.branch is not None:
            out = out + self.branch(y)
        return torch.cat([out, log_sizes.unsqueeze(-1)], dim=-1)


class MergingBlock(SizedBlock):
    """A block that merges tokens between attention and MLP."""

    def __init__(self, block: nn.Module, merging: TokenMerging) -> None:
        super().__init__(block)
        self.merging = merging

    def forward(self, z: Tensor) -> Tensor:
        """(B, P + N, d) -> (B, P + T, d + 1)"""
        n = self.norm1(z)
        y, sizes = self.merging(z + self.attention(n), self.keys(n))
        return self.after_attention(y, sizes.log())

    def keys(self, n: Tensor) -> Tensor:
        """Normalised tokens (B, N, d) -> their keys, the mean over the heads, (B, N, d_h)"""
        attn = self.block.attn
        # An update of query and value holds the frozen projection as `qkv`.
        qkv = attn.qkv if isinstance(attn.qkv, nn.Linear) else attn.qkv.qkv
        heads = (attn.num_heads, -1)
        with torch.no_grad():
            # The mean of the weights gives the mean of the keys, for one head's work.
            weight = qkv.weight.chunk(3)[1].unflatten(0, heads).mean(0)  # (d_h, d)
            bias = None if qkv.bias is None else qkv.bias.chunk(3)[1].unflatten(0, heads).mean(0)
            return F.linear(n, weight, bias)
