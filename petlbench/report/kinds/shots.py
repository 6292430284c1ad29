"""Few-shot accuracy against shots, a panel a data set and their mean: Figure 3 of the DTL paper.

The name of a task ends in its number of shots, for example fewshot/food101_4.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from petlbench.errors import UserError
from petlbench.report.model.chart import Axis, Chart, Panel, Point, Series
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.model.table import MEAN, Column, Table
from petlbench.report.read import means
from petlbench.report.read.scores import Scores, gather
from petlbench.report.table import published
from petlbench.report.table.accuracy import accuracy_table
from petlbench.run.record import Record

DEFAULTS = {"title": "Few-shot accuracy", "suite": "fewshot"}
Grid = dict[str, dict[int, Column]]  # data set -> shots -> its column; the mean is the last


def build(
    records: Sequence[Record], spec: ReportSpec, *, titles: Mapping[str, str] | None = None
) -> Report:
    """titles: data set, as in the name of the task -> title."""
    scores = gather(records, spec)
    grid = _grid(scores, titles or {})
    # the tasks are columns of the grid; accuracy_table has their figures in `values`
    table = accuracy_table(scores, [], [], ["parameters_m"])
    table.values = table.values.join(_means(grid, scores.means, means.mean))
    table.spread = table.spread.join(_means(grid, scores.spread, means.deviation))
    table.columns = [*(c for line in grid.values() for c in line.values()), *table.columns]
    table.caption = "Top-1 accuracy (%) against shots. Best in bold, second underlined."
    table.notes = [*table.notes, "Mean: over data sets, if a row has all of them."]
    return Report(
        spec.title, [table], scores.tidy, [_chart(table, grid, published.methods(scores))]
    )


def _grid(scores: Scores, titles: Mapping[str, str]) -> Grid:
    grid: Grid = {}
    for task in scores.tasks:
        name, shots = _split(task.key)
        title = titles.get(name, name)
        grid.setdefault(title, {})[shots] = replace(task, title=str(shots), group=title)
    # the mean has a column for each number that any data set has
    every = sorted({shots for line in grid.values() for shots in line})
    ordered = {title: dict(sorted(line.items())) for title, line in grid.items()}
    return ordered | {MEAN: {n: Column(f"mean_{n}", str(n), MEAN, best="high") for n in every}}


def _split(task: str) -> tuple[str, int]:
    """(data set, shots) of a task."""
    # digits of the name itself are before the last underscore, as in food101_4
    match = re.fullmatch(r"(?:.*/)?(.+)_(\d+)", task)
    if match is None:
        raise UserError(
            f"the name of task '{task}' has no number of shots; "
            "this report needs names such as food101_4; choose others with --suite"
        )
    return match[1], int(match[2])


def _means(grid: Grid, cells: pd.DataFrame, average: means.Average) -> pd.DataFrame:
    """Averages over data sets for each number of shots; NaN if a row lacks a data set."""
    lines = [line for title, line in grid.items() if title != MEAN]
    columns = {}
    for shots, column in grid[MEAN].items():
        keys = [line[shots].key for line in lines if shots in line]
        every = means.complete_only(cells[keys], average)
        # a mean of fewer data sets would not compare with the others
        columns[column.key] = every if len(keys) == len(lines) else float("nan")
    return pd.DataFrame(columns, index=cells.index)


def _chart(table: Table, grid: Grid, methods: Mapping[str, str]) -> Chart:
    shots = list(grid[MEAN])
    # 1, 2, 4, 8, 16 are at equal distances on a logarithmic axis
    x, y = Axis("shots per class", logarithmic=True, marks=shots), Axis("top-1 accuracy (%)")
    panels = [
        Panel(name, x, y, _series(table, line, methods), joined=True)
        for name, line in grid.items()
    ]
    caption = "Top-1 accuracy (%) against shots per class."
    bars = " Bars: one sample deviation over runs." if table.spread_columns else ""
    return Chart("shots", caption + bars, [panel for panel in panels if panel.series])


def _series(table: Table, line: Mapping[int, Column], methods: Mapping[str, str]) -> list[Series]:
    points = {
        row: [
            _point(table, row, shots, column)
            for shots, column in line.items()
            if not pd.isna(table.values.loc[row, column.key])
        ]
        for row in table.rows
        if row not in table.unranked
    }
    return [Series(row, line, method=methods[row]) for row, line in points.items() if line]


def _point(table: Table, row: str, shots: int, column: Column) -> Point:
    y, spread = (float(part.loc[row, column.key]) for part in (table.values, table.spread))
    figure = f"{row}\n{column.group}, {shots} shots: {y:.1f} %"
    # a mean over data sets has no entry of its own: it shows the runs of its row
    runs = table.provenance.get((row, column.key)) or table.provenance.get((row, ""), row)
    return Point(shots, y, spread, "\n".join([figure, *runs.split("\n")[1:]]))
