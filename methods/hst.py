"""HST: Hierarchical Side-Tuning for Vision Transformers, https://arxiv.org/abs/2310.05393.

As in AFeng-x/HST @ ee89571c.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, pairwise
from typing import cast

import torch
from torch import Tensor, nn

from petlbench.checks import LARGEST_SIZE, batch_statistics, is_whole, size
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.methods.hst_side import Downsampling, SideStage, Stem, started
from petlbench.model.backbone import Backbone
from petlbench.model.block import plain_vit_blocks
from petlbench.model.drop_path import DropPath


class HST(Method):
    """A side network of convolutions and cross-attention, which reads the output of every block.

    It has an image stem and one stage for each entry of the lists: `widths`, `heads` and `depths`
    of its blocks, and `last_blocks`, the last block of the ViT that the stage may read, counted
    from 1. Side block j of a stage reads its j-th ViT block: it attends to the `meta_tokens` of
    that block and to the mean of its patches, and adds the patches, interpolated to its own grid.
    Blocks behind the last one that is read are not computed, since no logit depends on them; their
    meta tokens and norms count as trained, as in the authors' code.
    M learned meta tokens E_i go through ViT block i in front of the others, and are dropped behind
    it. norm1 and norm2 of all ViT blocks are trained too, so backward passes the whole ViT. The
    head reads the mean over the last map after a BatchNorm without weights, whose statistics are
    part of the delta; `backbone.pool` has no effect.
    The authors train on two GPUs, each with batch statistics of its own.
    """

    starts_as_pretrained = False
    unmergeable = "its side network is a network of its own"

    def __init__(
        self,
        backbone: Backbone,
        *,
        widths: Sequence[int],
        heads: Sequence[int],
        depths: Sequence[int],
        last_blocks: Sequence[int],
        meta_tokens: int,
    ) -> None:
        """Raises UserError for lists that do not fit each other or the network."""
        super().__init__(backbone)
        blocks = plain_vit_blocks("HST", backbone.tag, backbone.stages[0].blocks)
        self.count = size("method.meta_tokens", meta_tokens)
        self.read_blocks = _blocks_of_stages(widths, heads, depths, last_blocks, backbone.depth)
        for block in blocks:
            block.norm1.requires_grad_(True)
            block.norm2.requires_grad_(True)
        self.meta = nn.ParameterList(
            nn.init.xavier_uniform_(torch.empty(1, self.count, backbone.widths[0])) for _ in blocks
        )
        last = blocks[-1].drop_path1
        rate = last.rate if isinstance(last, DropPath) else 0.0
        rates = torch.linspace(0, rate, sum(depths), device="cpu")
        entries = [Stem(widths[0]), *(Downsampling(a, b) for a, b in pairwise(widths))]
        self.side = nn.ModuleList(
            SideStage(
                *(entry, backbone.widths[0], width, count),
                drop_paths=stage_rates.tolist(),
                grid=backbone.tokens.grid,
            )
            for entry, width, count, stage_rates in zip(
                entries, widths, heads, rates.split(list(depths)), strict=True
            )
        )
        started(self.side)
        self.head_norm = nn.BatchNorm1d(widths[-1], eps=1e-6, affine=False)
        backbone.net.head = nn.Linear(widths[-1], cast(nn.Linear, backbone.head).out_features)
        backbone.start_head()

    def outputs(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Patch embedding (B, P + N, d) -> meta tokens (B, M, d) and the others of each block"""
        for meta, block in zip(self.meta, self.backbone.stages[0].blocks, strict=True):
            both = block(torch.cat([meta.expand(z.shape[0], -1, -1), z], dim=1))
            z = both[:, self.count :]
            yield both[:, : self.count], z

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding -> last block, (B, P + N, d) -> (B, P + N, d), without meta tokens"""
        *_, (_, z) = self.outputs(z)
        return z

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, K)

        Raises UserError for one image in a training step, which has no statistics.
        """
        if self.training:
            batch_statistics("HST", len(images))
        outputs = self.outputs(self.backbone.embed(images))
        h = images
        stages = cast(Iterable[SideStage], self.side)
        for stage, count in zip(stages, self.read_blocks, strict=True):
            h = stage.enter(h)
            for index, (meta, z) in enumerate(islice(outputs, count)):
                if index < len(stage.blocks):
                    patches = self.backbone.tokens.split(z)[1]
                    h = self.beside(partial(stage.read, index), h, meta, patches)
            h = stage.norm(h)
        return self.backbone.head(self.head_norm(h.mean((1, 2))))  # type: ignore[no-any-return]


def _is_list(values: object) -> bool:
    """Whether it is a list of sizes."""
    return (
        isinstance(values, Sequence)
        and bool(values)
        and all(is_whole(value) and 0 < value <= LARGEST_SIZE for value in values)
    )


def _blocks_of_stages(
    widths: Sequence[int],
    heads: Sequence[int],
    depths: Sequence[int],
    last_blocks: Sequence[int],
    depth: int,
) -> list[int]:
    """Number of ViT blocks of each stage, of the last one those that it reads.

    Raises UserError if the lists do not fit.
    """
    named = {"widths": widths, "heads": heads, "depths": depths, "last_blocks": last_blocks}
    for name, values in named.items():
        if not _is_list(values) or len(values) != len(widths):
            raise UserError(
                f"method.{name} is {values}; it must be a list of whole numbers from 1 to "
                f"{LARGEST_SIZE}, one for each stage of the side network"
            )
    counts = [end - start for start, end in pairwise([0, *last_blocks])]
    if last_blocks[-1] != depth or any(map(int.__lt__, counts, depths)):
        raise UserError(
            f"method.last_blocks is {list(last_blocks)}; it must end with the {depth} blocks of "
            f"the network, and each stage needs as many of them as method.depths says, "
            f"{list(depths)}"
        )
    for width, count in zip(widths, heads, strict=True):
        if width % count:
            raise UserError(
                f"a width of method.widths is {width}; it must be a multiple of its {count} heads"
            )
    return [*counts[:-1], depths[-1]]
