"""Schedules and weight-decay groups against values computed from the published formulas."""

import math

import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from petlbench.errors import UserError
from petlbench.train.optim import cosine, groups, schedule_time

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
