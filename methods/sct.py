"""SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels,
https://arxiv.org/abs/2309.08513.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from petlbench.backbone import Backbone
from petlbench.blocks import OpenBlock
from petlbench.checks import positive, whole
from petlbench.errors import unknown
from petlbench.interface import Method, Trainer
from petlbench.leaves import Chosen

SITES = ("attn", "mlp")
BATCH = 50  # images at a time while channels are chosen


class SalientChannels(nn.Module):
    """z + s (W z_S + b) in the channels S; with `scale_on_x`, s z_S + W z_S + b."""

    units = 1

    def __init__(self, width: int, channels: int, scale: float, *, scale_on_x: bool) -> None:
        super().__init__()
        count = whole("channels", channels, low=1, high=width, of="the width of the network there")
        self.salient = Chosen(torch.arange(count))  # until fit chooses
        self.linear = nn.Linear(count, count)
        self.scale = positive("scale", scale)
        self.scale_on_x = scale_on_x
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> Tensor:
        """(..., width) -> (..., width)"""
        channels = self.salient.index
        chosen = z.index_select(-1, channels)
        update = self.linear(chosen)
        change = update + (self.scale - 1) * chosen if self.scale_on_x else self.scale * update
        return z.index_add(-1, channels, change.to(z.dtype))


class TunedBlock(OpenBlock):
    """A block with a tuning of the residual stream behind attention, or behind the MLP."""

    def __init__(self, block: nn.Module, tuning: SalientChannels, site: str) -> None:
        super().__init__(block)
        self.tuning = tuning
        self.site = site

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.attention(self.norm1(z))
        if self.site == "attn":
            z = self.tuning(z)
        z = z + self.mlp(self.norm2(z))
        return self.tuning(z) if self.site == "mlp" else z

    def stream(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What the tuning would see of z in the pre-trained block, and that block's output."""
        y = z + self.attention(self.norm1(z))
        out = y + self.mlp(self.norm2(y))
        return (y if self.site == "attn" else out), out


class SCT(Method):
    """A square linear map on each block's K salient channels, chosen from the training data.

    Salient are the channels with the largest L2 norm over the patches of a class, averaged over
    classes, in the frozen pre-trained network. `site` is the residual stream behind attention
    (`attn`, the authors' sct_attn) or behind the MLP (`mlp`). W starts from N(0, 0.02^2), so
    training does not start at the pre-trained network.
    """

    starts_as_pretrained = False
    unmergeable = "it acts on the residual stream, which no weight of the backbone carries"

    def __init__(
        self, backbone: Backbone, *, channels: int, scale: float, scale_on_x: bool, site: str
    ) -> None:
        super().__init__(backbone)
        if site not in SITES:
            raise unknown("method.site", site, SITES)

        def tuned(block: nn.Module, width: int) -> nn.Module:
            tuning = SalientChannels(width, channels, scale, scale_on_x=scale_on_x)
            return TunedBlock(block, tuning, site)

        backbone.swap_blocks(tuned)

    def fit(self, trainer: Trainer) -> Method:
        """Choose the channels, then train."""
        self.to(trainer.device)
        self.choose(trainer.examples(BATCH))
        trainer.train(self)
        return self

    def choose(self, examples: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set each block's salient channels from (images, labels) batches of the training data."""
        self.eval()
        blocks = self._blocks()
        squares: list[dict[int, Tensor]] = [{} for _ in blocks]
        with torch.no_grad():
            for images, labels in examples:
                for sums, stream in zip(squares, self._streams(images), strict=True):
                    _, patches = self.backbone.tokens.split(stream)
                    energy = patches.float().square().sum(1)  # (B, C)
                    for label in labels.unique().tolist():
                        part = energy[labels == label].sum(0)
                        sums[label] = sums[label] + part if label in sums else part
        for block, sums in zip(blocks, squares, strict=True):
            salience = torch.stack([total.sqrt() for total in sums.values()]).mean(0)
            block.tuning.salient.choose(salience)

    def _blocks(self) -> list[TunedBlock]:
        return [module for module in self.modules() if isinstance(module, TunedBlock)]

    def _streams(self, images: Tensor) -> Iterator[Tensor]:
        """The residual stream at each block's site, in the pre-trained network."""
        z, blocks = self.backbone.embed(images), iter(self._blocks())
        for stage in self.backbone.stages:
            z = stage.enter(z)
            for block in islice(blocks, len(stage.blocks)):
                seen, z = block.stream(z)
                yield seen
