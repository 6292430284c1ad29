"""Accuracy and memory against one value of a method: Figure 4 of the DTL paper."""

from collections.abc import Sequence

import pandas as pd

from petlbench.errors import UserError
from petlbench.report import accuracy, costs, published
from petlbench.report.chart import Axis, Chart, Panel, Point, Series
from petlbench.report.costs import MEMORY
from petlbench.report.document import Report
from petlbench.report.scores import GROUP_MEAN, TASK_MEAN, Scores, gather
from petlbench.report.table import Table
from petlbench.report.view import View
from petlbench.run.record import Record

VIEW = {"title": "Accuracy and memory against a value"}


def build(records: Sequence[Record], view: View, *, mean: str = GROUP_MEAN) -> Report:
    """The first key that the view varies is the horizontal axis; it must be a number."""
    if not view.vary:
        raise UserError("this report shows what a value does; add --vary KEY, e.g. method.rank")
    scores = gather(records, view)
    means = list(dict.fromkeys([mean, GROUP_MEAN, TASK_MEAN]))
    table = accuracy.table_of(scores, [], means, ("parameters_m", MEMORY))
    return Report(view.title, [table], scores.tidy, [_chart(scores, table, mean)])


def _chart(scores: Scores, table: Table, mean: str) -> Chart:
    key, called = next(iter(scores.view.vary.items()))
    at = _numbers(scores, key)
    memory = costs.memory_key(scores.finished)
    x = Axis(called, marks=sorted(set(at.values())))
    printed = _printed(scores, table, called, mean)
    panels = [
        Panel(title, x, Axis(unit), [*_series(scores, table, at, column), *more], joined=True)
        for title, unit, column, more in (
            ("Accuracy", f"top-1 accuracy, {mean} (%)", mean, printed),
            ("Memory", costs.COSTS[memory].title, memory, []),
        )
    ]
    caption = f"Top-1 accuracy ({mean}, %) and memory against {called} ({key})."
    more = " Points that no line joins: as published." if printed else ""
    return Chart("values", caption + more, panels)


def _printed(scores: Scores, table: Table, called: str, mean: str) -> list[Series]:
    """The published points, a series a source: memory is of another measure, so none of it."""
    found: dict[str, list[Point]] = {}
    for row in (row for file in scores.view.published for row in published.rows(file)):
        label = published.named(row)
        if called in row.values and label in table.rows and mean in row.cells:
            point = _point(table, label, float(row.values[called]), mean)
            found.setdefault(row.source, []).append(point)
    return [Series(source, points, alone=True) for source, points in found.items()]


def _numbers(scores: Scores, key: str) -> dict[str, float]:
    """Row -> the value of its runs."""
    found = dict(zip(scores.tidy["row"], scores.tidy[key], strict=True))
    if odd := {str(value) for value in found.values() if not isinstance(value, int | float)}:
        raise UserError(
            f"{key} is {', '.join(sorted(odd))} in some records; an axis needs numbers"
        )
    return {row: float(value) for row, value in found.items() if not pd.isna(value)}


def _series(scores: Scores, table: Table, at: dict[str, float], column: str) -> list[Series]:
    titles = dict(zip(scores.tidy["row"], scores.tidy["title"], strict=True))
    rows: dict[str, list[str]] = {}
    for row in sorted(at, key=at.__getitem__):
        if not pd.isna(table.values.loc[row, column]):
            rows.setdefault(titles[row], []).append(row)
    return [
        Series(title, [_point(table, row, at[row], column) for row in members])
        for title, members in rows.items()
    ]


def _point(table: Table, row: str, x: float, column: str) -> Point:
    y = float(table.values.loc[row, column])
    spread = float(table.spread.loc[row, column]) if column in table.spread else float("nan")
    return Point(x, y, spread, f"{y:.4g}\n" + table.origins.get((row, ""), row))
