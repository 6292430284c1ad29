"""Accuracy and memory against one value of a method: Figure 4 of the DTL paper."""

from collections.abc import Sequence

import pandas as pd

from petlbench.checks import is_number
from petlbench.cost.figures import COSTS
from petlbench.errors import UserError
from petlbench.report.model.chart import Axis, Chart, Panel, Point, Series
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.model.table import Table
from petlbench.report.read import rows
from petlbench.report.read.costs import MEMORY, memory_key
from petlbench.report.read.fields import config_value
from petlbench.report.read.means import GROUP_MEAN, TASK_MEAN
from petlbench.report.read.scores import Scores, gather
from petlbench.report.table import published
from petlbench.report.table.accuracy import accuracy_table
from petlbench.run.record import Record

DEFAULTS = {"title": "Accuracy and memory against a value"}


def build(records: Sequence[Record], spec: ReportSpec, *, mean: str = GROUP_MEAN) -> Report:
    """The first varied key is the horizontal axis; its values must be numbers."""
    if not spec.vary:
        raise UserError(
            "this report needs a value for its horizontal axis; add --vary KEY, e.g. method.rank"
        )
    scores = gather(records, spec)
    # each once: `mean` may be one of the two
    means = list(dict.fromkeys([mean, GROUP_MEAN, TASK_MEAN]))
    table = accuracy_table(scores, [], means, ("parameters_m", MEMORY))
    return Report(spec.title, [table], scores.tidy, [_chart(scores, table, mean)])


def _chart(scores: Scores, table: Table, mean: str) -> Chart:
    key, title = next(iter(scores.spec.vary.items()))
    at = _numbers(scores, key)
    memory = memory_key(scores.finished)
    x = Axis(title, marks=sorted(set(at.values())))
    printed = _published(scores, table, title, mean)
    panels = [
        Panel(head, x, Axis(unit), [*_series(scores, table, at, column), *others], joined=True)
        for head, unit, column, others in (
            ("Accuracy", f"top-1 accuracy, {mean} (%)", mean, printed),
            ("Memory", COSTS[memory].title, memory, []),  # published memory is another measure
        )
    ]
    caption = f"Top-1 accuracy ({mean}, %) and memory against {title} ({key})."
    caption += " Points without a line: as published." if printed else ""
    return Chart("values", caption, panels)


def _published(scores: Scores, table: Table, title: str, mean: str) -> list[Series]:
    """The published accuracies, a series a source."""
    by_source: dict[str, list[Point]] = {}
    for row in (row for file in scores.spec.published for row in published.rows(file)):
        label = published.label_of(row)
        # sources.yaml gives the value of a published row the title that `vary` has, e.g. M
        if title in row.values and label in table.rows and mean in row.cells:
            point = _point(table, label, float(row.values[title]), mean)
            by_source.setdefault(row.source, []).append(point)
    return [Series(source, points, alone=True) for source, points in by_source.items()]


def _numbers(scores: Scores, key: str) -> dict[str, float]:
    """Row -> the value of its runs."""
    values = {row: config_value(record, key) for row, record in scores.labelled}
    # a row whose value is none has no place on the axis
    present = {row: value for row, value in values.items() if value is not None}
    if odd := {str(value) for value in present.values() if not is_number(value)}:
        raise UserError(
            f"--vary '{key}' is {', '.join(sorted(odd))} in some records; "
            "the axis of this report needs numbers"
        )
    return {row: float(value) for row, value in present.items()}


def _series(scores: Scores, table: Table, at: dict[str, float], column: str) -> list[Series]:
    # rows that differ in the value of the axis only are joined: their labels without that value
    others = dict(list(scores.spec.vary.items())[1:])
    labels = rows.labels([record for _, record in scores.labelled], others)
    lines = {row: labels[record["id"]] for row, record in scores.labelled}
    methods = published.methods(scores)
    joined: dict[str, list[str]] = {}
    for row in sorted(at, key=at.__getitem__):
        if not pd.isna(table.values.loc[row, column]):
            joined.setdefault(lines[row], []).append(row)
    return [
        Series(
            title,
            [_point(table, row, at[row], column) for row in members],
            method=methods[members[0]],
        )
        for title, members in joined.items()
    ]


def _point(table: Table, row: str, x: float, column: str) -> Point:
    y = float(table.values.loc[row, column])
    # costs have no spread
    spread = float(table.spread.loc[row, column]) if column in table.spread else float("nan")
    return Point(x, y, spread, f"{y:.4g}\n" + table.provenance.get((row, ""), row))
