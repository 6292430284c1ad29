"""Schedules and weight-decay groups against values computed from the published formulas."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from petlbench.config import nodes, recipes
from petlbench.config.nodes import Schedule
from petlbench.delta import trained
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.model import head_starts
from petlbench.model.backbone import Backbone
from petlbench.testing import tiny, tiny_method
from petlbench.train import optim, precision
from petlbench.train.optim import build_optimiser, cosine, parameter_groups, schedule_time
from tests.settings import schedule, train

DTL = {
    "warmup_epochs": 10,
    "warmup_lr": 1e-7,
    "min_lr": 1e-8,
    "cosine_epochs": 100,
    "cosine_from": 0,
}
PETL_VIT = {
    "warmup_epochs": 10,
    "warmup_lr": 1e-6,
    "min_lr": 1e-5,
    "cosine_epochs": 100,
    "cosine_from": 0,
}


def rates(values: dict[str, float], epochs: int, lag_epochs: int) -> list[float]:
    timing = schedule(**values, lag_epochs=lag_epochs, update="epoch")
    times = (schedule_time(epoch, 0.0, timing) for epoch in range(1, epochs + 1))
    return [cosine(time, peak_lr=1e-3, schedule=timing) for time in times]


@pytest.mark.parametrize("values", [DTL, PETL_VIT])
def test_the_schedule_is_timms(values: dict[str, float]) -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    timm = CosineLRScheduler(
        optimiser,
        t_initial=100,
        warmup_t=10,
        warmup_lr_init=values["warmup_lr"],
        lr_min=values["min_lr"],
    )
    expected = []
    for epoch in range(110):
        timm.step(epoch)
        expected.append(optimiser.param_groups[0]["lr"])
    assert rates(values, 110, lag_epochs=0) == pytest.approx(expected, rel=1e-12)


def test_dtl_runs_its_first_epoch_at_the_warm_up_start_and_its_last_ten_at_the_minimum() -> None:
    values = rates(DTL, 110, lag_epochs=0)
    assert values[0] == 1e-7
    assert values[100:] == [1e-8] * 10
    assert values[10] == pytest.approx(0.9755 * 1e-3, rel=1e-4)


def test_a_lag_repeats_the_first_value_and_shifts_the_rest_by_one_epoch() -> None:
    straight, late = rates(PETL_VIT, 100, lag_epochs=0), rates(PETL_VIT, 100, lag_epochs=1)
    assert late[0] == late[1] == straight[0]
    assert late[1:] == straight[:-1]


def test_step_updates_move_within_an_epoch() -> None:
    assert schedule_time(3, 0.25, schedule(update="step")) == 2.25
    assert schedule_time(3, 0.25, schedule(update="epoch")) == 2


class Four(Method):
    """A method with a matrix, a bias, a vector and a scalar."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.up = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.zeros(2))
        self.gate = nn.Parameter(torch.zeros(()))


@pytest.mark.parametrize(
    ("no_decay", "exempt"),
    [
        ("biases", {"up.bias"}),
        ("one_dimensional", {"up.bias", "scale", "gate"}),
        ("none", set()),
    ],
)
def test_weight_decay_exempts_what_the_published_code_exempts(
    no_decay: str, exempt: set[str]
) -> None:
    method = Four(tiny("vit"))
    parts = parameter_groups(
        method, train(lr=1.0, head_lr=2.0, weight_decay=0.1, no_decay=no_decay)
    )
    still = {id(t) for part in parts if part["weight_decay"] == 0 for t in part["params"]}
    named = {n: t for n, t in trained(method).items() if "head" not in n}
    assert {name for name, tensor in named.items() if id(tensor) in still} == exempt
    assert sum(len(part["params"]) for part in parts) == len(trained(method))
    head = {id(tensor) for tensor in method.backbone.head.parameters()}
    rates = {part["peak_lr"] for part in parts if id(part["params"][0]) in head}
    assert rates == {2.0}


def scheduled(file: tuple[str, str, str]) -> tuple[list[float], dict[str, float]]:
    """The learning rate of each epoch under the first row of a published file, and its values."""
    method, backbone, _ = file
    row = recipes.row(method, backbone, recipes.tasks(*file)[0])
    assert row is not None
    published, values = row["train"], dict(row["train"]["schedule"])
    if values["cosine_epochs"] == "${train.epochs}":
        values["cosine_epochs"] = published["epochs"]
    timing = Schedule(**dict[str, Any](cosine_from=0) | values)
    times = [schedule_time(epoch, 0.5, timing) for epoch in range(1, published["epochs"] + 1)]
    peak_lr = published["lr"]
    return [cosine(time, peak_lr=peak_lr, schedule=timing) for time in times], published


# The file, its warm-up and least learning rates, epochs run, and the index that the code hands to
# timm's scheduler after epoch number e (from 1).
STEPPED = [
    (("dtl", "vit_b16", "vtab"), 1e-7, 1e-8, 110, lambda e: e),  # train_vit_vtab.py
    (("dtl_plus", "swin_b", "vtab"), 1e-7, 1e-8, 110, lambda e: e),
    (("ssf", "vit_b16_augreg", "vtab"), 1e-7, 1e-8, 110, lambda e: e),  # train.py: epoch + 1
    (("fact_tk", "vit_b16", "vtab"), 1e-6, 1e-5, 100, lambda e: e - 1),  # fact_tk.py: step(ep)
    (("bi_lora", "vit_b16", "vtab"), 1e-6, 1e-5, 100, lambda e: e - 1),
    (("repadapter", "vit_b16", "vtab"), 1e-6, 1e-5, 100, lambda e: e - 1),
    (("sct", "vit_b16", "vtab"), 1e-6, 1e-5, 100, lambda e: e - 1),
    (("adapter", "vit_b16", "vtab"), 1e-6, 1e-5, 100, lambda e: e - 1),  # NOAH: step(epoch)
    (("noah_subnet", "vit_b16", "fewshot"), 1e-6, 1e-5, 100, lambda e: e - 1),
    (("rlrr", "vit_b16", "vtab"), 1e-7, 1e-8, 110, lambda e: e - 1),  # train_vtab.py
    (("full", "vit_b16", "vtab"), 1e-4, 1e-6, 100, lambda e: e - 1),
]


@pytest.mark.parametrize(("file", "warmup_lr", "min_lr", "epochs", "index"), STEPPED)
def test_published_schedules_are_timms_stepped_as_the_source_says(
    file: tuple[str, str, str],
    warmup_lr: float,
    min_lr: float,
    epochs: int,
    index: Callable[[int], int],
) -> None:
    values, published = scheduled(file)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=published["lr"])
    timm = CosineLRScheduler(
        optimiser, t_initial=100, warmup_t=10, warmup_lr_init=warmup_lr, lr_min=min_lr
    )
    expected = []
    for epoch in range(1, epochs + 1):
        expected.append(optimiser.param_groups[0]["lr"])
        timm.step(index(epoch))
    assert values == pytest.approx(expected, rel=1e-12)


def test_the_schedule_of_hydra_is_the_start_of_a_cosine_of_500_epochs() -> None:
    values, published = scheduled(("hydra", "vit_b16", "vtab"))
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=published["lr"])
    timm = CosineLRScheduler(
        optimiser, t_initial=500, warmup_t=10, warmup_lr_init=1e-6, lr_min=1e-5
    )
    timm.step(98)  # after the last epoch but one, whose 0-based number is 98
    assert values[-1] == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
    assert len(values) == 100


@pytest.mark.parametrize("method", ["adapter_plus", "vpt_deep"])
def test_the_schedule_of_adapter_plus_is_lightnings_an_epoch_late(method: str) -> None:
    """LinearWarmupCosineAnnealingLR in closed form: 10 steps up, the last at the peak, 90 down.

    After each epoch it is set to the value of that epoch's 0-based number, so the first value
    acts twice and the last one never.
    """
    values, published = scheduled((method, "vit_b16", "vtab"))
    lr = published["lr"]
    up = [lr / 100 + step * (lr - lr / 100) / 9 for step in range(10)]
    down = [
        lr / 1000 + (lr - lr / 1000) * (1 + math.cos(math.pi * step / 90)) / 2
        for step in range(90)
    ]
    assert values[:3] == pytest.approx([1e-5, 1e-5, 1.2e-4], rel=1e-12)
    assert values == pytest.approx([up[0], *up, *down[:-1]], rel=1e-12)


@pytest.mark.parametrize("name", ["ssf", "adapter", "lora_noah", "noah_subnet", "adapter_plus"])
def test_one_dimensional_is_timms_rule(name: str) -> None:
    """NOAH, SSF and Adapter+ group by timm's factory, or by the same rule."""
    method = tiny_method(name, "vit")
    theirs, _ = param_groups_weight_decay(method, weight_decay=0.1)
    parts = parameter_groups(method, train(no_decay="one_dimensional"))
    ours = [tensor for part in parts if part["weight_decay"] == 0 for tensor in part["params"]]
    assert {*map(id, ours)} == {*map(id, theirs["params"])}
    assert sum(len(part["params"]) for part in parts) == len(trained(method))


def test_sgd_has_momentum_and_decay() -> None:
    """V <- 0.9 v + g + 0.1 w; w <- w - 0.5 v"""
    method = Four(tiny("vit"))
    weight = method.scale
    weight.data = torch.tensor([1.0, 1.0])
    settings = train(lr=0.5, weight_decay=0.1, no_decay="none", optimizer="sgd")
    optimiser = build_optimiser(method, settings)
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"]
    for _ in range(2):
        weight.grad = torch.tensor([2.0, 2.0])
        optimiser.step()
    first = 1 - 0.5 * 2.1
    second = first - 0.5 * (0.9 * 2.1 + 2 + 0.1 * first)
    assert weight.tolist() == pytest.approx([second, second])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adam"}, "unknown train.optimizer 'adam'"),
        ({"momentum": 1}, "train.momentum is 1"),
        ({"label_smoothing": -0.1}, "train.label_smoothing is -0.1"),
        ({"clip_grad": 0.0}, "train.clip_grad is 0.0; it must be a number above 0"),
        ({"clip_grad": float("nan")}, "train.clip_grad is nan"),
        ({"accumulate": 0}, "train.accumulate is 0; it must be a whole number from 1"),
        ({"mixup": -1}, "train.mixup is -1"),
        ({"cutmix": 1.0, "batch_size": 7}, "train.cutmix mixes pairs of images"),
        ({"mixup": 1.0, "drop_last": False}, "train.mixup mixes pairs of images"),
        ({"timing": {"cosine_from": 5}}, "cosine_from is 5"),
        ({"lr": -0.1}, r"train\.lr is -0\.1"),
        ({"head_lr": math.nan}, r"train\.head_lr is nan"),
        ({"no_decay": "norms"}, "unknown train.no_decay 'norms'"),
        ({"betas": [0.9]}, r"train\.betas is \[0\.9\]"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(**change)


def test_the_schema_offers_what_the_code_has() -> None:
    assert set(nodes.NO_DECAY) == set(optim.NO_DECAY)
    assert set(nodes.PRECISIONS) == {"auto", *precision.FORMATS}
    assert set(nodes.HEAD_STARTS) == {nodes.STORED, *head_starts.HEAD_STARTS}
