"""FPET: Faster Parameter-Efficient Tuning with Token Redundancy Reduction,
https://arxiv.org/abs/2503.20282.

LoRA, AdaptFormer, Bi-LoRA or Bi-AdaptFormer on half as many patches from one block on, where a
learned match merges them (fpet_merging.py). As in kyk120/fpet @ 17a45e76. No readable table of its
figures on VTAB-1K was found, so it has no published rows.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

from timm.layers import Attention
from torch import Tensor

from petlbench.checks import block_number, size, whole
from petlbench.errors import UserError, unknown
from petlbench.method import Method
from petlbench.methods.adaptformer import AdaptFormer
from petlbench.methods.binary import BiAdaptFormer, BiLoRA
from petlbench.methods.fpet_merging import MergingBlock, SizedBlock, TokenMerging
from petlbench.methods.lora import LoRA
from petlbench.methods.quantised import MOST_BITS
from petlbench.model.backbone import Backbone
from petlbench.model.block import plain_vit_blocks

# Each with 32-bit weights, and with a few bits.
BASES: Mapping[str, tuple[Callable[..., Method], Callable[..., Method]]] = {
    "lora": (LoRA, BiLoRA),
    "adaptformer": (partial(AdaptFormer, bias=False), BiAdaptFormer),
}


class FPET(Method):
    """A base method, and token merging between attention and MLP of block `merge_block`.

    base: `lora` or `adaptformer`, as PETL-ViT has them: without biases, and with `bits` bits per
    weight, None for 32. merge_block counts from 1. refine_rank, refine_bits: of the refinement of
    the keys; its dropout is that of the base. A class token passes unchanged; a mean over patches
    takes merged ones as equals.
    """

    starts_as_pretrained = False
    unmergeable = "it merges tokens"

    def __init__(
        self,
        backbone: Backbone,
        *,
        base: str,
        rank: int,
        bits: int | None,
        scale: float,
        dropout: float,
        merge_block: int,
        refine_rank: int,
        refine_bits: int,
    ) -> None:
        """Raises Unsupported for other networks than plain ViTs, and for a grid below 2 x 2."""
        super().__init__(backbone)
        if base not in BASES:
            raise unknown("method.base", base, BASES)
        blocks = plain_vit_blocks("FPET", backbone.tag, backbone.stages[0].blocks)
        first = block_number("method.merge_block", merge_block, backbone.depth)
        if first == backbone.depth and backbone.pool == "cls":
            raise UserError(
                f"method.merge_block is {first}, and what the last block merges does not reach "
                "the class token (backbone.pool=cls); set a smaller one"
            )
        size("method.refine_rank", refine_rank)
        whole("method.refine_bits", refine_bits, low=1, high=MOST_BITS)
        head_width = backbone.widths[0] // cast(Attention, blocks[0].attn).num_heads
        with_all_bits, with_few_bits = BASES[base]
        make = with_all_bits if bits is None else partial(with_few_bits, bits=bits, head_bits=None)
        make(backbone, rank=rank, scale=scale, dropout=dropout)  # swaps its modules into it
        merging = TokenMerging(backbone.tokens, head_width, refine_rank, refine_bits, dropout)
        merge, *later = backbone.stages[0].blocks.slots[first - 1 :]
        merge.put(MergingBlock(merge.own(), merging))
        for slot in later:
            slot.put(SizedBlock(slot.own()))

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding (B, P + N, d) -> output of the last block (B, P + T, d)"""
        return super().features(z)[..., :-1]  # without the sizes
