"""SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels,
https://arxiv.org/abs/2309.08513.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from petlbench.checks import positive, whole
from petlbench.errors import UserError, unknown
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
        count = whole(
            "method.channels", channels, low=1, high=width, of="the width of the network there"
        )
        self.salient = Chosen(torch.arange(count))  # until fit chooses
        self.linear = nn.Linear(count, count)
        self.scale = positive("method.scale", scale)
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


class Tuned(nn.Module):
    """T(W x + b): a linear layer and a tuning T of its output."""

    def __init__(self, linear: nn.Linear, tuning: SalientChannels) -> None:
        super().__init__()
        self.linear = linear
        self.tuning = tuning

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)"""
        return self.tuning(self.linear(x))  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """One linear layer."""
        return affine(self, self.linear)


class TunedQKV(nn.Module):
    """A fused qkv projection and tunings of its queries and of its values; keys stay."""

    def __init__(self, qkv: nn.Linear, query: SalientChannels, value: SalientChannels) -> None:
        super().__init__()
        self.qkv = qkv
        self.query = query
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (..., d) each
        return torch.cat([self.query(q), k, self.value(v)], dim=-1)

    def folded(self) -> nn.Module:
        """One linear layer."""
        return affine(self, self.qkv)


SITES = ("attn", "mlp", "qkv")


class SCT(Method):
    """A square linear map on each block's K salient channels, selected from the training data.

    Salient are the channels with the largest L2 norm over the patches of a class, averaged over
    classes, in the frozen pre-trained network. `site` is one of
      attn  the residual stream after attention (the authors' sct_attn)
      mlp   the output of the MLP, before the skip is added (sct_mlp); its channels are selected
            from the output of the block
      qkv   the queries and the values, each with a map and K channels of its own (sct_qkv); its
            scale is 1
    W starts from N(0, 0.02^2), so training does not start at the pre-trained network.
    """

    starts_as_pretrained = False

    def __init__(
        self, backbone: Backbone, *, channels: int, scale: float, scale_on_x: bool, site: str
    ) -> None:
        """Raises UserError for an unknown site, or a scale where the site has none."""
        super().__init__(backbone)
        if site not in SITES:
            raise unknown("method.site", site, SITES)
        if site == "qkv" and scale != 1.0:
            raise UserError(f"method.site=qkv has no scale, not {scale}; set method.scale=1.0")
        self.at_block = site == "mlp"

        def tuning(width: int) -> SalientChannels:
            return SalientChannels(width, channels, scale, scale_on_x=scale_on_x)

        def tuned_qkv(qkv: nn.Linear) -> nn.Module:
            return TunedQKV(qkv, tuning(qkv.in_features), tuning(qkv.in_features))

        if site == "qkv":
            swap(backbone, "*.attn.qkv", tuned_qkv)
        elif site == "mlp":
            # not the MLP of an attention pooling
            swap(backbone, "*.blocks.*.mlp.fc2", lambda fc2: Tuned(fc2, tuning(fc2.out_features)))
        else:
            self.unmergeable = "it acts on the residual stream, which no weight carries"
            backbone.swap_blocks(lambda block, width: AfterAttention(block, tuning(width)))

    def fit(self, trainer: Trainer) -> Fitted:
        """Select the channels, then train."""
        self.to(trainer.device)
        self.choose(trainer.examples(BATCH))
        trainer.train(self)
        return Fitted(self)

    def choose(self, examples: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set each block's salient channels from (images, labels) batches of the training data."""
        self.eval()  # no drop path; the trainer sets train mode again
        watched = self._watched()
        sums: dict[SalientChannels, dict[int, Tensor]] = {tuning: {} for tuning in watched}
        with _untuned_outputs(watched) as outputs, torch.no_grad():
            for images, labels in examples:
                self(images)
                for tuning in watched:
                    self._add_energy(sums[tuning], outputs[tuning], labels)
        for tuning, by_class in sums.items():
            salience = torch.stack([total.sqrt() for total in by_class.values()]).mean(0)
            tuning.salient.choose(salience)

    def _watched(self) -> dict[SalientChannels, nn.Module]:
        """Each tuning with the module from whose output its channels are selected."""
        return {
            part: slot.own() if self.at_block else part
            for stage in self.backbone.stages
            for slot in stage.blocks.slots
            for part in slot.own().modules()
            if isinstance(part, SalientChannels)
        }

    def _add_energy(self, sums: dict[int, Tensor], z: Tensor, labels: Tensor) -> None:
        """Add the squares of z (B, ..., C) over the patches of each class, (C,)."""
        # windows of one image lie next to each other
        tokens = z.reshape(len(labels), -1, z.shape[-1])
        patches = tokens[:, self.backbone.tokens.prefix :]
        energy = patches.float().square().sum(1)  # (B, C)
        for label in labels.unique().tolist():
            sums[label] = sums.get(label, 0) + energy[labels == label].sum(0)


@contextmanager
def _untuned_outputs(
    watched: Mapping[SalientChannels, nn.Module],
) -> Iterator[dict[SalientChannels, Tensor]]:
    """The last output of each watched module, while the network computes the pre-trained one."""
    outputs: dict[SalientChannels, Tensor] = {}

    def untuned(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return inputs[0]

    def keep(tuning: SalientChannels, _: nn.Module, inputs: object, output: Tensor) -> None:
        outputs[tuning] = output

    # Hooks for this pass only: one that stayed would be copied with the method. Those of a module
    # run in their order, so its output is kept as it is without the tuning.
    hooks = [tuning.register_forward_hook(untuned) for tuning in watched]
    hooks += [
        module.register_forward_hook(partial(keep, tuning)) for tuning, module in watched.items()
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
