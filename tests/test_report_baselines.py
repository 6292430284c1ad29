"""The note on methods that are below a cheap baseline."""

from dataclasses import replace

import pytest

from petlbench.report.registry import build, find
from petlbench.run.record import Record
from tests.records import record
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
        "Below a baseline on the task mean: BitFit (69.5), VPT-Shallow (70.9) < Linear (71.0). "
        "Significantly: BitFit (two-sided Wilcoxon signed-rank test over 19 tasks; Holm's "
        "correction for 2 rows; level 0.05)."
    ]


def test_few_tasks_have_no_test() -> None:
    runs = [record("linear", "digits", 80.0), record("lora", "digits", 70.0)]
    assert notes(runs) == [
        "Below a baseline on the task mean: LoRA (70.0) < Linear (80.0). No signed-rank test of "
        "these differences (1 task)."
    ]


def test_no_row_is_below_itself_an_equal_figure_or_without_its_tasks() -> None:
    linear = [record("linear", "digits", 80.0), record("linear", "land", 80.0)]
    knn = [record("knn", "digits", 70.0), record("knn", "land", 70.0)]
    equal = [record("lora", "digits", 79.98), record("lora", "land", 80.0)]
    incomplete = [record("dtl_plus", "digits", 10.0)]
    assert notes([*linear, *knn, *equal, *incomplete]) == []
    assert notes([*equal, *incomplete]) == []
