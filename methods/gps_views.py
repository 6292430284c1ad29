"""Augmented views and the contrastive loss by which GPS selects its parameters (gps.py).

Supervised Contrastive Learning, https://arxiv.org/abs/2004.11362; values as in
FightingFighting/GPS @ 72e0c315.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

VIEWS = 2
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def two_views(
    examples: Iterable[tuple[Tensor, Tensor]], mean: Sequence[float], std: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of normalised images (B, 3, H, W) and labels (B,) -> views (2, B, 3, H, W), labels

    A view is a random crop of 8 to 100 % of the area, resized, with random flip, colours and
    greyscale. It draws from torch's generator.
    """
    for images, labels in examples:
        size = images.shape[-2:]
        change = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(**JITTER)], p=0.8),
                v2.RandomGrayscale(p=0.2),
            ]
        )
        middle, spread = (images.new_tensor(v).view(3, 1, 1) for v in (mean, std))
        pixels = (images * spread + middle).clamp(0, 1)
        # Image by image: a transform changes all images of a batch in the same way.
        views = [torch.stack([change(image) for image in pixels]) for _ in range(VIEWS)]
        yield (torch.stack(views) - middle) / spread, labels


def contrastive_loss(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Features (N, d) and labels (N,) -> the mean over the rows of eq. 2, a scalar

    A row is drawn to all others with its label; every row needs one. The constant factor of the
    authors' loss, temperature / base temperature, is 1.
    """
    rows = F.normalize(features, dim=-1)
    own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    similarity = (rows @ rows.mT / temperature).masked_fill(own, -torch.inf)
    log_share = F.log_softmax(similarity, dim=1).masked_fill(own, 0)  # (N, N)
    positive = (labels[:, None] == labels) & ~own
    return -((log_share * positive).sum(1) / positive.sum(1)).mean()
