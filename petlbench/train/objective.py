"""What training makes small: cross-entropy, with smoothed labels and mixed images if so wanted."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from timm.data import Mixup
from torch import Tensor
from torch.nn import functional as F

from petlbench.checks import fraction
from petlbench.errors import UserError


class Objective:
    """Mean cross-entropy of a batch.

    label_smoothing: the share of each label that is spread over all classes. mixup, cutmix: the
    alpha of the Beta distribution that shares are drawn from, 0 for off; with both, one of them is
    drawn for each batch (timm's Mixup, as the published scripts call it). seed: of these draws.
    """

    def __init__(
        self, *, label_smoothing: float, mixup: float, cutmix: float, classes: int, seed: int
    ) -> None:
        self.label_smoothing = label_smoothing
        self.mixup: Mixup | None = None
        if mixup or cutmix:
            self.label_smoothing = 0.0  # of mixed labels timm takes care
            self.mixup = Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=classes)
        self.dice = np.random.RandomState(seed).get_state()

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, classes: int, seed: int) -> "Objective":
        """The one that the training values name."""
        values = {key: settings[key] for key in ("label_smoothing", "mixup", "cutmix")}
        return cls(**values, classes=classes, seed=seed)

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), changed in place, and their labels (B), or (B, K) if mixed."""
        if self.mixup is None:
            return images, labels
        others = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self.dice)  # noqa: NPY002
        try:
            mixed: tuple[Tensor, Tensor] = self.mixup(images, labels)
        finally:
            self.dice = np.random.get_state()  # noqa: NPY002
            np.random.set_state(others)  # noqa: NPY002
        return mixed

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, K) and what `mixed` gave for the labels -> a number"""
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)


PLAIN = Objective(label_smoothing=0.0, mixup=0.0, cutmix=0.0, classes=0, seed=0)


def check_objective(settings: Mapping[str, Any]) -> None:
    """Refuse values out of their range, and mixing where a batch may be odd."""
    fraction("train.label_smoothing", settings["label_smoothing"])
    for key in ("mixup", "cutmix"):
        value = settings[key]
        if not (isinstance(value, int | float) and 0 <= value < float("inf")):
            raise UserError(f"train.{key} is {value}; it must be a number of at least 0")
        if value and (settings["batch_size"] % 2 or not settings["drop_last"]):
            raise UserError(
                f"train.{key} mixes pairs of images; set train.batch_size to an even number and "
                "train.drop_last=true"
            )
