"""The note on methods that are below a cheap baseline."""

from dataclasses import replace

import pytest

from petlbench.report.registry import build, find
from petlbench.run.record import Record
from tests.records import record, score
from tests.sweeps import vtab


def notes(records: list[Record], kind: str = "table") -> list[str]:
    lines = build(records, replace(find(kind), suite=None)).tables[0].notes
    return [line for line in lines if line.startswith("Below a baseline")]


@pytest.mark.parametrize("kind", ["table", "leaderboard"])
def test_rows_below_the_best_baseline_are_named_with_their_means(kind: str) -> None:
    runs = [
        *vtab("linear", 62.0),
        *vtab("knn", 60.0),
        *vtab("vpt_shallow", 61.5),
        *vtab("bitfit", 60.5),
        *vtab("lora", 70.0),
    ]
    # BitFit loses all 19, VPT-Shallow wins some
    for run in runs[2 * 19 : 2 * 19 + 5]:
        run["scores"]["test"]["top1"] += 1.4
    assert notes(runs, kind) == [
        "Below a baseline on the mean over 19 tasks: BitFit (69.5), VPT-Shallow (70.9) < Linear "
        "(71.0). Significantly: BitFit (two-sided Wilcoxon signed-rank test over 19 tasks; Holm's "
        "correction for 2 rows; level 0.05)."
    ]


def test_few_tasks_have_no_test() -> None:
    both = ("digits", "land")
    runs = [record(m, t, top1) for m, top1 in (("linear", 80.0), ("lora", 70.0)) for t in both]
    assert notes(runs) == [
        "Below a baseline on the mean over 2 tasks: LoRA (70.0) < Linear (80.0). No signed-rank "
        "test of these differences (2 tasks)."
    ]


@pytest.mark.parametrize("kind", ["table", "folder", "leaderboard"])
def test_one_task_is_named(kind: str) -> None:
    runs = [record("linear", "digits", 80.0), record("lora", "digits", 70.0)]
    assert notes(runs, kind) == ["Below a baseline on Digits: LoRA (70.0) < Linear (80.0)."]


def test_a_table_of_test_sets_names_them_too() -> None:
    """It has no mean over all of its columns."""
    sets = ("imagenet", "imagenetv2", "sketch", "a", "r")
    runs = []
    for method, top1 in (("linear", 80.0), ("lora", 70.0)):
        scores = {name: score(top1) for name in sets}
        runs.append(record(method, "dg/imagenet", top1, scores=scores))
        runs[-1]["factors"]["backbone"] = "vit_b16"
    table = build(runs, replace(find("table4"), published=())).tables[0]
    assert any("on the mean over 5 test sets: LoRA (70.0) <" in note for note in table.notes)


def test_no_row_is_below_itself_an_equal_figure_or_without_its_tasks() -> None:
    linear = [record("linear", "digits", 80.0), record("linear", "land", 80.0)]
    knn = [record("knn", "digits", 70.0), record("knn", "land", 70.0)]
    equal = [record("lora", "digits", 79.98), record("lora", "land", 80.0)]
    incomplete = [record("dtl_plus", "digits", 10.0)]
    assert notes([*linear, *knn, *equal, *incomplete]) == []
    assert notes([*equal, *incomplete]) == []
