"""Choosing values from trials: equal grids, complete points, the edge of the grid."""

import csv
import re
from typing import Any

import pytest

from petlbench import registry
from petlbench.config import options
from petlbench.errors import UserError
from petlbench.run.record import Record
from petlbench.sweep.choose import (
    points,
    trials,
    tried,
    unchosen,
    unequal,
    uneven,
    varied,
)
from tests.records import record
from tests.sweeps import ROOT

VALUES = ["train.lr"]


def trial(method: str, task: str, lr: float, top1: float) -> Record:
    config: dict[str, Any] = {"train": {"lr": lr, "epochs": 1}}
    scores = {"val": {"top1": top1, "correct": 1, "total": 200}}
    return record(method, task, top1, protocol="trial", config=config, scores=scores)


GRID = [
    trial("lora", task, lr, top1)
    for lr, scores in {0.1: (90.0, 60.0), 0.01: (80.0, 80.0), 0.001: (70.0, 70.0)}.items()
    for task, top1 in zip(("digits", "land"), scores, strict=True)
]


def test_the_best_mean_over_all_tasks_is_chosen() -> None:
    found = points(trials(GRID, VALUES), VALUES)
    assert list(found["train.lr"]) == [0.01, 0.1, 0.001]
    assert list(found["val"]) == [80, 75, 70]
    assert list(found["chosen"]) == [True, False, False]
    assert not any(found["at_edge"])


def test_a_point_that_misses_a_task_is_not_chosen_and_edges_are_marked() -> None:
    found = points(trials([r for r in GRID if r is not GRID[3]], VALUES), VALUES)
    best = found[found["chosen"]].iloc[0]
    assert (best["train.lr"], best["at_edge"]) == (0.1, "train.lr")


def test_of_equal_points_the_smallest_values_are_chosen() -> None:
    equal = [trial("lora", "digits", lr, 70.0) for lr in (0.1, 0.01, 0.3)]
    found = points(trials(equal, VALUES), VALUES)
    assert found.loc[found["chosen"], "train.lr"].tolist() == [0.01]


def test_means_that_differ_by_their_rounding_are_equal() -> None:
    scores = {0.1: (0.1, 0.2, 0.3), 0.01: (0.3, 0.2, 0.1)}  # whose sums differ in the last bit
    tasks = ("digits", "land", "cells")
    records = [
        trial("lora", task, rate, score)
        for rate, own in scores.items()
        for task, score in zip(tasks, own, strict=True)
    ]
    found = points(trials(records, VALUES), VALUES)
    assert found.loc[found["chosen"], "train.lr"].tolist() == [0.01]


def test_a_trial_that_failed_after_its_test_is_not_chosen() -> None:
    lost = GRID[2] | {"status": "failed"}  # 0.01, the best, on digits; it keeps its score
    found = points(trials([lost if r is GRID[2] else r for r in GRID], VALUES), VALUES)
    assert found.loc[found["chosen"], "train.lr"].tolist() == [0.1]


def test_a_method_without_a_complete_point_is_said() -> None:
    assert unchosen(points(trials(GRID, VALUES), VALUES)) is None
    lost = [
        r | {"factors": r["factors"] | {"method": "dtl"}, "status": "diverged", "scores": {}}
        for r in GRID
    ]
    told = unchosen(points(trials([*GRID, *lost], VALUES), VALUES))
    assert told is not None
    assert told.endswith("none is chosen: dtl on vit_mini")


@pytest.mark.parametrize(
    ("values", "edge"),
    [((1, 2, 3), [3]), ((1, "x"), [1]), (("cos", "lin"), []), ((True, False), [])],
)
def test_only_numbers_have_an_edge(values: tuple[object, ...], edge: list[object]) -> None:
    grid = [trial("lora", "digits", n, 50.0 + n) for n in range(len(values))]
    for each, value in zip(grid, values, strict=True):
        each["config"]["train"]["lr"] = value
        each["scores"]["val"]["top1"] += 10 * (value == 1)  # of two, the first is the best
    if values == (1, 2, 3):
        grid[2]["scores"]["val"]["top1"] = 90.0
    found = points(trials(grid, VALUES), VALUES)
    assert found.loc[found["at_edge"] == "train.lr", "train.lr"].tolist() == edge


def test_grids_of_different_size_are_said() -> None:
    few = [r | {"factors": r["factors"] | {"method": "dtl"}} for r in GRID[:2]]
    assert unequal(points(trials(GRID, VALUES), VALUES)) is None
    told = unequal(points(trials([*GRID, *few], VALUES), VALUES))
    assert told is not None
    assert "dtl on vit_mini 1" in told
    assert "lora on vit_mini 3" in told


def test_points_that_miss_a_task_do_not_count_as_tried() -> None:
    other = [r | {"factors": r["factors"] | {"method": "dtl"}} for r in GRID]
    assert unequal(points(trials([*GRID, *other], VALUES), VALUES)) is None
    told = unequal(points(trials([*GRID, *other[:-1]], VALUES), VALUES))
    assert told is not None
    assert "dtl on vit_mini 2, lora on vit_mini 3" in told


def test_a_diverged_trial_counts_as_tried_and_is_never_chosen() -> None:
    lost = GRID[2] | {"status": "diverged", "scores": {}}  # 0.01, the best, on digits
    found = points(trials([lost if r is GRID[2] else r for r in GRID], VALUES), VALUES)
    assert unequal(found) is None
    assert list(found["train.lr"]) == [0.1, 0.001, 0.01]
    assert list(found["chosen"]) == [True, False, False]
    assert found["val"].isna().tolist() == [False, False, True]
    assert list(found["tasks"]) == [2, 2, 2]
    with pytest.raises(UserError, match="no finished trial"):
        trials([lost], VALUES)


@pytest.mark.parametrize("status", ["failed", "out_of_memory"])
def test_a_failed_seed_leaves_its_point_without_a_mean(status: str) -> None:
    both = [r | {"factors": r["factors"] | {"seed": seed}} for r in GRID for seed in (0, 1)]
    both[0] = both[0] | {"status": status, "scores": {}}  # 0.1 on digits
    table = trials(both, VALUES)
    found = points(table, VALUES)
    assert found.loc[found["chosen"], "train.lr"].tolist() == [0.01]
    assert unequal(found) is None
    assert uneven(table, VALUES) is None


def test_what_is_unsupported_was_not_tried() -> None:
    refused = [r | {"status": "unsupported", "scores": {}} for r in GRID]
    other = [r | {"factors": r["factors"] | {"method": "dtl"}} for r in GRID]
    assert tried([*other, *refused, record("lora", "land", 78.0)]) == other


def test_points_of_different_numbers_of_seeds_are_said() -> None:
    again = GRID[0] | {"factors": GRID[0]["factors"] | {"seed": 1}}
    told = uneven(trials([*GRID, again], VALUES), VALUES)
    assert told == "the points have 1 to 2 seeds on a task"


def test_trials_of_other_settings_are_not_averaged() -> None:
    for seed in (0, 1):
        long = trial("lora", "digits", 0.1, 30.0) | {"id": "long"}
        long["config"]["train"]["epochs"] = 100
        long["factors"] |= {"seed": seed}
        with pytest.raises(UserError, match=r"train\.epochs.*name the key with --values"):
            trials([*GRID, long], VALUES)
        both = [*VALUES, "train.epochs"]
        assert len(points(trials([*GRID, long], both), both)) == 4


def test_points_that_differ_in_an_unnamed_setting_are_said() -> None:
    assert varied(GRID, VALUES) is None
    long = trial("lora", "digits", 1.0, 30.0)
    long["config"]["train"]["epochs"] = 100
    told = varied([*GRID, long], VALUES)
    assert told is not None
    assert "the points of lora on vit_mini differ in train.epochs (1, 100)" in told
    assert varied([*GRID, long], ["train"]) is None
    assert varied([*GRID, long], [*VALUES, "train.epochs"]) is None


def test_a_value_may_be_null() -> None:
    without = [trial("lora", task, 0.1, 95.0) for task in ("digits", "land")]
    for r in without:
        r["config"]["train"]["lr"] = None
    found = points(trials([*GRID, *without], VALUES), VALUES)
    assert found["val"].tolist()[0] == 95.0


def test_only_trials_count() -> None:
    with pytest.raises(UserError, match="no finished trial"):
        trials(tried([record("lora", "land", 78.0)]), VALUES)
    with pytest.raises(UserError, match=r"no value 'train\.rate'"):
        trials(GRID, ["train.rate"])


def swept(name: str) -> set[str]:
    """The methods of an experiment, with those of the commands in its comments."""
    lines = options.text("experiment", name).splitlines()
    named = [re.search(r"method=([a-z0-9_,]+)", line) for line in lines if line.startswith("#")]
    params = options.content("experiment", name)["hydra"]["sweeper"]["params"]
    lists = [params["method"], *(found[1] for found in named if found)]
    return {method for text in lists for method in text.split(",")}


def test_the_comparison_of_all_methods_leaves_none_out() -> None:
    assert swept("mini_all") == set(registry.names())
    by_other_means = {"knn", "logistic", "noah"}  # on val in every run, or by a search
    tried = swept("mini_rates") | swept("mini_rates_head")
    assert tried == set(registry.names()) - by_other_means


def test_the_rates_on_vit_mini_are_those_of_the_committed_grids() -> None:
    """The wider grid wins: eight trials on eight tasks, then three on one task."""
    chosen: dict[str, dict[str, str]] = {}
    for grid in ("mini/rates/grid.csv", "mini/grid.csv"):
        with (ROOT / grid).open() as file:
            chosen |= {
                row["method"]: row for row in csv.DictReader(file) if row["chosen"] == "True"
            }
    for method, row in chosen.items():
        train = options.content("method_on", f"{method}/vit_mini")["train"]
        rates = {key: float(train[key]) for key in ("lr", "head_lr") if key in train}
        assert rates == {key: float(row[f"train.{key}"]) for key in rates}, method
        assert "head_lr" in rates
