"""Smoothed labels and mixed images against timm's own."""

from typing import Any

import numpy as np
import pytest
import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor

from petlbench.train.objective import PLAIN, Objective
from tests.loops import tensors, trainer
from tests.settings import train
from tests.shallow import shallow_method

CLASSES = 5
LABELS = torch.tensor([0, 3, 1, 1])
LOGITS = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(0))


def objective(**changed: Any) -> Objective:
    values = {"label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0, "classes": CLASSES, "seed": 3}
    return Objective(**values | changed)


def batches() -> list[Tensor]:
    return list(torch.randn(6, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))


def test_without_values_it_is_cross_entropy_of_the_same_images() -> None:
    images = batches()[0]
    same, targets = PLAIN.mixed(images, LABELS)
    assert same is images
    assert targets is LABELS
    assert torch.equal(
        PLAIN.loss(LOGITS, LABELS), torch.nn.functional.cross_entropy(LOGITS, LABELS)
    )


def test_smoothing_is_timms() -> None:
    theirs = LabelSmoothingCrossEntropy(smoothing=0.1)(LOGITS, LABELS)
    torch.testing.assert_close(objective(label_smoothing=0.1).loss(LOGITS, LABELS), theirs)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
def test_mixing_is_timms_and_draws_for_itself(mixup: float, cutmix: float) -> None:
    """As NOAH's code calls it: by batch, always, one or the other."""
    expected = []
    np.random.seed(3)  # noqa: NPY002 -- timm draws from it
    theirs = Mixup(
        mixup_alpha=mixup,
        cutmix_alpha=cutmix,
        prob=1.0,
        switch_prob=0.5,
        mode="batch",
        label_smoothing=0.1,
        num_classes=CLASSES,
    )
    for images in batches():
        mixed, targets = theirs(images, LABELS)
        expected.append((mixed, SoftTargetCrossEntropy()(LOGITS, targets)))
    np.random.seed(9)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    ours = objective(label_smoothing=0.1, mixup=mixup, cutmix=cutmix)
    for images, (mixed, loss) in zip(batches(), expected, strict=True):
        changed, targets = ours.mixed(images.clone(), LABELS)
        assert torch.equal(changed, mixed)
        assert not torch.equal(changed, images)
        torch.testing.assert_close(ours.loss(LOGITS, targets), loss)
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]  # noqa: NPY002


def test_training_mixes_alike_for_equal_seeds() -> None:
    def trained(**changed: Any) -> list[Tensor]:
        made = shallow_method("lora")
        return tensors(made.fit(trainer(train=train(**changed))).network)

    plain, mixed, again = trained(), trained(mixup=0.8), trained(mixup=0.8)
    assert all(torch.equal(a, b) for a, b in zip(mixed, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))
