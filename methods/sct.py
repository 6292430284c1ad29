"""SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels,
https://arxiv.org/abs/2309.08513.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from petlbench.checks import positive, whole
from petlbench.errors import unknown
from petlbench.layers import Chosen, affine
from petlbench.method import Fitted, Method, Trainer
from petlbench.model.backbone import Backbone
from petlbench.model.block import PreNormBlock
from petlbench.swap import swap

BATCH = 50  # images per batch of the channel selection


class SalientChannels(nn.Module):
    """z with z_S + s (W z_S + b) in its salient channels S, W (K, K); the others pass unchanged.

    scale_on_x: s z_S + W z_S + b instead.
    """

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
        """(..., d) -> (..., d)"""
        channels = self.salient.index
        salient = z.index_select(-1, channels)  # z_S, (..., K)
        update = self.linear(salient)
        change = update + (self.scale - 1) * salient if self.scale_on_x else self.scale * update
        return z.index_add(-1, channels, change.to(z.dtype))


class AfterAttention(PreNormBlock):
    """A block with a tuning T after attention: y = T(z + attention(norm1(z)))."""

    def __init__(self, block: nn.Module, tuning: SalientChannels) -> None:
        super().__init__(block)
        self.tuning = tuning

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d) or (B, H, W, d) -> the same shape"""
        z = self.tuning(z + self.attention(self.norm1(z)))
        return z + self.mlp(self.norm2(z))


class AfterMLP(AfterAttention):
    """A block with a tuning T of its output: T(y + mlp(norm2(y)))."""

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, d) or (B, H, W, d) -> the same shape"""
        z = z + self.attention(self.norm1(z))
        return self.tuning(z + self.mlp(self.norm2(z)))  # type: ignore[no-any-return]


class TunedProjection(nn.Module):
    """T(W x + b): a fused qkv projection and a tuning of its output."""

    def __init__(self, qkv: nn.Linear, tuning: SalientChannels) -> None:
        super().__init__()
        self.qkv = qkv
        self.tuning = tuning

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        return self.tuning(self.qkv(x))  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """One linear map."""
        return affine(self, self.qkv)


BLOCKS = {"attn": AfterAttention, "mlp": AfterMLP}
SITES = (*BLOCKS, "qkv")


class SCT(Method):
    """A square linear map on each block's K salient channels, selected from the training data.

    Salient are the channels with the largest L2 norm over the patches of a class, averaged over
    classes, in the frozen pre-trained network.
    site: the residual stream after attention (`attn`, the authors' sct_attn) or after the MLP
    (`mlp`, sct_mlp), or the output of the fused query, key and value projection (`qkv`, sct_qkv).
    W starts from N(0, 0.02^2), so training does not start at the pre-trained network.
    """

    starts_as_pretrained = False
    unmergeable = "it acts on the residual stream, which no weight of the backbone carries"

    def __init__(
        self, backbone: Backbone, *, channels: int, scale: float, scale_on_x: bool, site: str
    ) -> None:
        super().__init__(backbone)
        if site not in SITES:
            raise unknown("method.site", site, SITES)

        def tuning(width: int) -> SalientChannels:
            return SalientChannels(width, channels, scale, scale_on_x=scale_on_x)

        if site == "qkv":
            swap(backbone, "*.attn.qkv", lambda q: TunedProjection(q, tuning(q.out_features)))
            self.unmergeable = ""
        else:
            tuned = BLOCKS[site]
            backbone.swap_blocks(lambda block, width: tuned(block, tuning(width)))

    def fit(self, trainer: Trainer) -> Fitted:
        """Select the channels, then train."""
        self.to(trainer.device)
        self.choose(trainer.examples(BATCH))
        trainer.train(self)
        return Fitted(self)

    def choose(self, examples: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set each block's salient channels from (images, labels) batches of the training data."""
        self.eval()  # no drop path; the trainer sets train mode again
        tunings = [module for module in self.modules() if isinstance(module, SalientChannels)]
        seen: dict[SalientChannels, Tensor] = {}
        sums: dict[SalientChannels, dict[int, Tensor]] = {tuning: {} for tuning in tunings}

        def watch(tuning: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            """Record the input and return it, so that the network stays the pre-trained one."""
            assert isinstance(tuning, SalientChannels)
            seen[tuning] = inputs[0]
            return inputs[0]

        # Hooks for this pass only: one that stayed would be copied with the method.
        watched = [tuning.register_forward_hook(watch) for tuning in tunings]
        try:
            with torch.no_grad():
                for images, labels in examples:
                    self(images)
                    for tuning, z in seen.items():
                        # windows of one image lie next to each other
                        tokens = z.reshape(len(images), -1, z.shape[-1])
                        patches = tokens[:, self.backbone.tokens.prefix :]
                        energy = patches.float().square().sum(1)  # (B, C)
                        for label in labels.unique().tolist():
                            part = energy[labels == label].sum(0)
                            sums[tuning][label] = sums[tuning].get(label, 0) + part
        finally:
            for hook in watched:
                hook.remove()
        for tuning, by_class in sums.items():
            salience = torch.stack([total.sqrt() for total in by_class.values()]).mean(0)
            tuning.salient.choose(salience)
