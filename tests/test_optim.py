"""Schedules and weight-decay groups against values computed from the published formulas."""

import math
from collections.abc import Callable

import pytest
import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from petlbench.config import recipes
from petlbench.delta import trained
from petlbench.errors import UserError
from petlbench.train.optim import cosine, create, groups, schedule_time
from petlbench.train.settings import check
from petlbench.train.step import build_optimiser
from tests.test_methods import made
from tests.test_trainer import SETTINGS

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


def rates(schedule: dict[str, float], epochs: int, lag_epochs: int) -> list[float]:
    times = (
        schedule_time(epoch, 0.0, lag_epochs=lag_epochs, update="epoch")
        for epoch in range(1, epochs + 1)
    )
    return [cosine(time, peak_lr=1e-3, **schedule) for time in times]


@pytest.mark.parametrize("schedule", [DTL, PETL_VIT])
def test_the_schedule_is_timms(schedule: dict[str, float]) -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    timm = CosineLRScheduler(
        optimiser,
        t_initial=100,
        warmup_t=10,
        warmup_lr_init=schedule["warmup_lr"],
        lr_min=schedule["min_lr"],
    )
    expected = []
    for epoch in range(110):
        timm.step(epoch)
        expected.append(optimiser.param_groups[0]["lr"])
    assert rates(schedule, 110, lag_epochs=0) == pytest.approx(expected, rel=1e-12)


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
    assert schedule_time(3, 0.25, lag_epochs=0, update="step") == 2.25
    assert schedule_time(3, 0.25, lag_epochs=0, update="epoch") == 2


def named() -> list[tuple[str, nn.Parameter]]:
    shapes = {"up.weight": (2, 2), "up.bias": (2,), "scale": (2,), "gate": ()}
    return [(name, nn.Parameter(torch.zeros(shape))) for name, shape in shapes.items()]


@pytest.mark.parametrize(
    ("no_decay", "spared"),
    [
        ("biases", {"up.bias"}),
        ("one_dimensional", {"up.bias", "scale", "gate"}),
        ("none", set()),
    ],
)
def test_weight_decay_spares_what_the_published_code_spares(
    no_decay: str, spared: set[str]
) -> None:
    method, head = named(), [("head.weight", nn.Parameter(torch.zeros(3, 2)))]
    parts = groups(method, head, lr=1.0, head_lr=2.0, weight_decay=0.1, no_decay=no_decay)
    found = {
        name
        for name, tensor in method
        for part in parts
        if part["weight_decay"] == 0 and any(tensor is other for other in part["params"])
    }
    assert found == spared
    assert sum(len(part["params"]) for part in parts) == 5
    assert [part["peak_lr"] for part in parts if part["params"][0] is head[0][1]] == [2.0]


def test_a_negative_learning_rate_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.lr is -0\.1"):
        groups([], [], lr=-0.1, head_lr=1, weight_decay=0, no_decay="none")
    with pytest.raises(UserError, match=r"train\.head_lr is nan"):
        groups([], [], lr=0.1, head_lr=math.nan, weight_decay=0, no_decay="none")


def scheduled(file: tuple[str, str, str]) -> tuple[list[float], dict[str, float]]:
    """The learning rate of each epoch under the first row of a published file, and its values."""
    method, backbone, _ = file
    row = recipes.row(method, backbone, recipes.tasks(*file)[0])
    assert row is not None
    train, schedule = row["train"], dict(row["train"]["schedule"])
    if schedule["cosine_epochs"] == "${train.epochs}":
        schedule["cosine_epochs"] = train["epochs"]
    lag, update = schedule.pop("lag_epochs"), schedule.pop("update")
    times = [
        schedule_time(epoch, 0.5, lag_epochs=lag, update=update)
        for epoch in range(1, train["epochs"] + 1)
    ]
    return [cosine(time, peak_lr=train["lr"], **schedule) for time in times], row["train"]


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
    values, train = scheduled(file)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=train["lr"])
    timm = CosineLRScheduler(
        optimiser, t_initial=100, warmup_t=10, warmup_lr_init=warmup_lr, lr_min=min_lr
    )
    expected = []
    for epoch in range(1, epochs + 1):
        expected.append(optimiser.param_groups[0]["lr"])
        timm.step(index(epoch))
    assert values == pytest.approx(expected, rel=1e-12)


def test_the_schedule_of_adapter_plus_is_lightnings() -> None:
    """LinearWarmupCosineAnnealingLR in closed form: 10 steps up, the last at the peak, 90 down."""
    values, train = scheduled(("adapter_plus", "vit_b16", "vtab"))
    lr = train["lr"]
    up = [lr / 100 + step * (lr - lr / 100) / 9 for step in range(10)]
    down = [
        lr / 1000 + (lr - lr / 1000) * (1 + math.cos(math.pi * step / 90)) / 2
        for step in range(90)
    ]
    assert values == pytest.approx(up + down, rel=1e-12)


@pytest.mark.parametrize("name", ["ssf", "adapter", "lora_noah", "noah_subnet", "adapter_plus"])
def test_one_dimensional_is_timms_rule(name: str) -> None:
    """NOAH, SSF and Adapter+ group by timm's factory, or by the same rule."""
    method = made(name, "vit")
    theirs, _ = param_groups_weight_decay(method, weight_decay=0.1)
    settings = SETTINGS | {"no_decay": "one_dimensional"}
    parts = build_optimiser(method, settings).param_groups
    ours = [tensor for part in parts if part["weight_decay"] == 0 for tensor in part["params"]]
    assert {*map(id, ours)} == {*map(id, theirs["params"])}
    assert sum(len(part["params"]) for part in parts) == len(trained(method))


def test_sgd_has_momentum_and_decay() -> None:
    """V <- 0.9 v + g + 0.1 w; w <- w - 0.5 v"""
    weight = nn.Parameter(torch.tensor([1.0]))
    parts = groups(
        [("up.weight", weight)], [], lr=0.5, head_lr=0.5, weight_decay=0.1, no_decay="none"
    )
    optimiser = create(parts, optimizer="sgd", lr=0.5, betas=[0.9, 0.999], momentum=0.9)
    for _ in range(2):
        weight.grad = torch.tensor([2.0])
        optimiser.step()
    first = 1 - 0.5 * 2.1
    second = first - 0.5 * (0.9 * 2.1 + 2 + 0.1 * first)
    assert weight.item() == pytest.approx(second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adam"}, "unknown train.optimizer 'adam'"),
        ({"momentum": 1}, "train.momentum is 1"),
        ({"label_smoothing": -0.1}, "train.label_smoothing is -0.1"),
        ({"mixup": -1}, "train.mixup is -1"),
        ({"cutmix": 1.0, "batch_size": 7}, "train.cutmix mixes pairs of images"),
        ({"mixup": 1.0, "drop_last": False}, "train.mixup mixes pairs of images"),
        ({"schedule": SETTINGS["schedule"] | {"cosine_from": 5}}, "cosine_from is 5"),
    ],
)
def test_values_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(SETTINGS | change)
