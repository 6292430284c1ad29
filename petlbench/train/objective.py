"""The training loss: cross-entropy, with label smoothing, mixup and cutmix."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from timm.data import Mixup
from torch import Tensor
from torch.nn import functional as F

from petlbench.config.nodes import Train


class Objective:
    """Mean cross-entropy of a batch.

    label_smoothing: the share of each label that is spread over all classes. mixup, cutmix: alpha
    of the Beta distribution that the shares of mixed images are drawn from, 0 for off; with both,
    one of them is drawn for each batch (timm's Mixup, as the published scripts call it).
    seed: of these draws.
    """

    def __init__(
        self, *, label_smoothing: float, mixup: float, cutmix: float, classes: int, seed: int
    ) -> None:
        self.label_smoothing = label_smoothing
        self.mixup: Mixup | None = None
        if mixup or cutmix:
            self.label_smoothing = 0.0  # timm smooths the labels that it mixes
            # The other arguments of timm's Mixup stay at their defaults, as in NOAH's code.
            self.mixup = Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=classes)
        self.random_state = np.random.RandomState(seed).get_state()

    @classmethod
    def of(cls, train: Train, *, classes: int, seed: int) -> "Objective":
        """The objective of the training values."""
        return cls(
            label_smoothing=train.label_smoothing,
            mixup=train.mixup,
            cutmix=train.cutmix,
            classes=classes,
            seed=seed,
        )

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), changed in place, and labels (B,) -> images, targets.

        Targets are (B, K) if mixed, else the labels.
        """
        if self.mixup is None:
            return images, labels
        with self._own_random_state():
            mixed: tuple[Tensor, Tensor] = self.mixup(images, labels)
        return mixed

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, K) and the targets of `mixed` -> scalar"""
        # It takes class numbers and shares of classes alike.
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """Timm draws from NumPy's global state; others must not see these draws."""
        others = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self.random_state)  # noqa: NPY002
        try:
            yield
        finally:
            self.random_state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(others)  # noqa: NPY002


PLAIN = Objective(label_smoothing=0.0, mixup=0.0, cutmix=0.0, classes=0, seed=0)
