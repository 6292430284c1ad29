"""k-NN: the k nearest training images vote, by the cosine similarity of frozen features.

The weighted vote of DINO's evaluation, https://arxiv.org/abs/2104.14294 (facebookresearch/dino,
eval_knn.py).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.checks import positive, whole
from petlbench.errors import UserError
from petlbench.layers.linear import without_autocast
from petlbench.method import Accuracy, Fitted, Method, Trainer, accuracy, head_inputs, searched
from petlbench.model.backbone import Backbone
from petlbench.swap import swap_these

MOST_IMAGES = 100_000_000  # whose features have 300 GB on ViT-B/16
BATCH = 250  # images whose similarities are computed at a time


class Memory(nn.Module):
    """Features (N, d) of length 1 of training images, which vote for their classes.

    They are in the order of the classes; `counts` (K,) says how many images each class has.

    The k largest cosine similarities s_i to an image give its class c the share
    sum_{i: y_i = c} exp(s_i / T) / sum_i exp(s_i / T).
    """

    features: Tensor
    counts: Tensor

    def __init__(self, width: int, classes: int, images: int, k: int, temperature: float) -> None:
        super().__init__()
        self.out_features = classes
        self.k = k
        self.temperature = temperature
        # persistent, so that a delta stores them
        self.register_buffer("features", torch.zeros(images, width))
        # as even as can be, until there are images
        self.register_buffer("counts", (images + classes - 1 - torch.arange(classes)) // classes)

    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Keep the features (N, d) and labels (N,) of other images."""
        self.features = F.normalize(features[labels.argsort(stable=True)], dim=1).to(self.features)
        self.counts = labels.bincount(minlength=self.out_features).to(self.counts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d) -> logarithms of the classes' shares (B, K); a share of 0 counts as tiny"""
        with without_autocast(x.device.type):  # 16 bits would make near neighbours equal
            similarity = F.normalize(x.to(self.features.dtype), dim=1) @ self.features.T  # (B, N)
        nearest = similarity.topk(min(self.k, len(self.features)))  # (B, k)
        weights = (nearest.values / self.temperature).softmax(1)
        shares = similarity.new_zeros(len(x), self.out_features)
        ends = self.counts.cumsum(0)[:-1]  # of all classes but the last
        shares = shares.scatter_add(1, torch.bucketize(nearest.indices, ends, right=True), weights)
        return shares.clamp_min(torch.finfo(shares.dtype).tiny).log()


class KNN(Method):
    """Compares an image with all training images; no tensor is trained by gradients.

    neighbours: the numbers k to choose from, on images that a search holds back from training.
    Of numbers with equal accuracy the one with the higher mean log-likelihood is chosen. With one
    number nothing is chosen. Then all images of the training split are stored.
    temperature: T. images: how many are stored; `fit` sets it. The features are what the head of
    another method reads. A delta has N d + K numbers: features of 32 bits, and counts.
    """

    starts_as_pretrained = False
    takes_steps = False
    unmergeable = "its head compares an image with stored ones"

    def __init__(
        self, backbone: Backbone, *, neighbours: Sequence[int], temperature: float, images: int
    ) -> None:
        super().__init__(backbone)
        if not isinstance(neighbours, Sequence) or isinstance(neighbours, str) or not neighbours:
            raise UserError(
                f"method.neighbours is {neighbours}; it must be a list of numbers such as "
                "[1, 5, 20]"
            )
        self.neighbours = [whole("a number of method.neighbours", k, low=1) for k in neighbours]
        self.searches = len(self.neighbours) > 1
        self.temperature = positive("method.temperature", temperature)
        old, stored = (
            cast(nn.Linear, backbone.head),
            whole("method.images", images, low=0, high=MOST_IMAGES),
        )
        sizes = (old.in_features, old.out_features, stored)
        swap_these(backbone, {old: Memory(*sizes, self.neighbours[0], self.temperature)})

    @property
    def memory(self) -> Memory:
        """The head."""
        return cast(Memory, self.backbone.head)

    def fit(self, trainer: Trainer) -> Fitted:
        """Choose k if there is a choice, then store the training split."""
        read = trainer.outputs(self, partial(head_inputs, self))
        notes: dict[str, Any] = {}
        if len(self.neighbours) > 1:
            search = searched(trainer, "method.neighbours=[5]")
            self.memory.remember(*read(search.fit))
            features, labels = read(search.val)
            scores = {k: self._score(k, features, labels) for k in self.neighbours}
            self.memory.k = max(scores, key=scores.__getitem__)
            top1 = {k: percent for k, (percent, _) in scores.items()}
            notes = {"neighbours": self.memory.k, "val_top1": top1}
        self.memory.remember(*read(trainer.fit))
        values = {
            "neighbours": [self.memory.k],
            "temperature": self.temperature,
            "images": len(self.memory.features),
        }
        return Fitted(self, made_by=(None, values), notes=notes)

    @torch.no_grad()
    def _score(self, k: int, features: Tensor, labels: Tensor) -> Accuracy:
        """With k neighbours on images with these features (N, d) and labels (N,)."""
        self.memory.k = k
        device = self.memory.features.device
        logits = [self.memory(part.to(device)).cpu() for part in features.split(BATCH)]
        return accuracy(torch.cat(logits), labels)
