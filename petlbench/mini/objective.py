"""The pre-training objective of vit_mini: a linear head for each kind of label of the scenes."""

import math
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.mini.scenes import HEADS, Generator, Scenes
from petlbench.model.vit_mini import vit_mini

MEAN, STD = 0.5, 0.25  # the values of conf/backbone/vit_mini.yaml
# no process of a usual run has this seed: theirs are recipe.seed * 1000 + 1 + rank
HELDOUT_SEED, HELDOUT_SCENES = 987_654_321, 8192
HELDOUT_BATCH = 512  # scenes


class Pretraining(nn.Module):
    """vit_mini with a linear head for each kind of label, on the mean of the normed patch tokens.

    The sprite and texture heads have a twin on the class token, which would learn nothing
    otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vit = vit_mini(num_classes=0)
        initialise(self.vit)
        width: int = self.vit.embed_dim
        self.heads = nn.ModuleDict({kind: nn.Linear(width, n) for kind, n in HEADS.items()})
        self.twins = nn.ModuleDict(
            {kind: nn.Linear(width, HEADS[kind]) for kind in ("sprite", "texture")}
        )
        self.cover = nn.Linear(width, 2)

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """(B, 3, 48, 48) normalised -> logits by kind, logits of the twins, cover (B, 36, 2)"""
        z = self.vit.forward_features(images)  # (B, 1 + 36, 96), normed
        patches = z[:, 1:]
        mean = patches.mean(1)
        logits = {kind: head(mean) for kind, head in self.heads.items()}
        twins = {kind: head(z[:, 0]) for kind, head in self.twins.items()}
        return logits, twins, self.cover(patches)


def initialise(vit: VisionTransformer) -> None:
    """Xavier weights, sine-cosine positions: the std of timm, 0.02, is too small at width 96."""
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    patch: Any = vit.patch_embed
    # as a linear map, as in facebookresearch/mae, models_mae.py; flatten makes a view
    nn.init.xavier_uniform_(patch.proj.weight.data.flatten(1))
    token, positions = vit.cls_token, vit.pos_embed
    assert token is not None
    assert positions is not None
    nn.init.normal_(token, std=0.5)
    side, quarter = patch.grid_size[0], token.shape[-1] // 4
    # base 40 and not the usual 10000: a side has 6 positions only
    frequency = 40.0 ** -(torch.arange(quarter) / quarter)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = [
        wave(axis.reshape(-1, 1) * frequency) for axis in (x, y) for wave in (torch.sin, torch.cos)
    ]
    with torch.no_grad():
        positions.zero_()
        # (36, 96); the class token has no position
        positions[0, 1:] = torch.cat(waves, 1)


def losses(model: nn.Module, scenes: Scenes) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum of the heads' losses (a scalar), and their accuracies.

    A cross-entropy is divided by its value at chance, the logarithm of the number of classes.
    """
    logits, twins, cover = model((scenes.images - MEAN) / STD)
    total = 2 * F.binary_cross_entropy_with_logits(cover, scenes.cover)
    accuracies = {}
    for kind, output in logits.items():
        weight = 2.5 if kind == "sprite" else 1.0
        label = scenes.labels[kind]
        total = total + weight * F.cross_entropy(output, label) / math.log(HEADS[kind])
        accuracies[kind] = float((output.argmax(1) == label).float().mean())
    for kind, output in twins.items():
        total = total + F.cross_entropy(output, scenes.labels[kind]) / math.log(HEADS[kind])
    return total, accuracies


@torch.no_grad()
def held_out(model: nn.Module, calm: float, device: torch.device) -> dict[str, Any]:
    """Accuracy of each head on held-out scenes, and the share of the most frequent label."""
    model.eval()
    generator = Generator(HELDOUT_SEED, device)
    means = dict.fromkeys(HEADS, 0.0)
    labels: dict[str, list[Tensor]] = {kind: [] for kind in HEADS}
    batches = HELDOUT_SCENES // HELDOUT_BATCH
    for _ in range(batches):
        scenes = generator.draw(HELDOUT_BATCH, calm)
        _, accuracies = losses(model, scenes)
        for kind in HEADS:
            means[kind] += accuracies[kind] / batches
            labels[kind].append(scenes.labels[kind])
    majority = {kind: torch.cat(parts).bincount().max().item() for kind, parts in labels.items()}
    return {
        kind: {
            "accuracy": round(means[kind], 4),
            "majority": round(majority[kind] / HELDOUT_SCENES, 4),
            "classes": HEADS[kind],
        }
        for kind in HEADS
    }
