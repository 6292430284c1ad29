"""Few-shot accuracy against shots, a panel a data set and their mean: Figure 3 of the DTL paper.

A task's name ends in its shots, for example fewshot/food101_4.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from petlbench.errors import UserError
from petlbench.report import accuracy, statistics
from petlbench.report.chart import Axis, Chart, Panel, Point, Series
from petlbench.report.document import Report
from petlbench.report.scores import Scores, gather
from petlbench.report.table import Column, Table
from petlbench.report.view import View
from petlbench.run.record import Record

VIEW = {"title": "Few-shot accuracy", "suite": "fewshot"}
MEAN = "Mean"
Mean = Callable[[pd.DataFrame], pd.Series]
Grid = dict[str, dict[int, Column]]  # data set -> shots -> its column; the mean is the last


def build(
    records: Sequence[Record], view: View, *, titles: Mapping[str, str] | None = None
) -> Report:
    """titles: data set, as in the task's name -> how it is called."""
    scores = gather(records, view)
    grid = _grid(scores, titles or {})
    table = accuracy.table_of(scores, [], [], ["parameters_m"])
    table.values = table.values.join(_means(grid, scores.means, _plain))
    table.spread = table.spread.join(_means(grid, scores.spread, statistics.propagated))
    table.columns = [*(c for line in grid.values() for c in line.values()), *table.columns]
    table.caption = "Top-1 accuracy (%) against shots. Best in bold, second underlined."
    table.notes = [*table.notes, "Mean: over data sets, where a row has all of them."]
    return Report(view.title, [table], scores.tidy, [_chart(table, grid)])


def _grid(scores: Scores, titles: Mapping[str, str]) -> Grid:
    found: Grid = {}
    for task in scores.tasks:
        name, shots = _split(task.key)
        called = titles.get(name, name)
        found.setdefault(called, {})[shots] = replace(task, title=str(shots), group=called)
    every = sorted({shots for line in found.values() for shots in line})
    ordered = {name: dict(sorted(line.items())) for name, line in found.items()}
    means = {n: Column(f"mean_{n}", str(n), MEAN, best="high") for n in every}
    return ordered | {MEAN: means}


def _split(task: str) -> tuple[str, int]:
    """(data set, shots) of a task."""
    match = re.fullmatch(r"(?:.*/)?(.+)_(\d+)", task)
    if match is None:
        raise UserError(f"task '{task}' names no shots; this report needs names such as food101_4")
    return match[1], int(match[2])


def _means(grid: Grid, cells: pd.DataFrame, over: Mean) -> pd.DataFrame:
    """Means over data sets for each number of shots, where a row has a cell of each."""
    lines = [line for name, line in grid.items() if name != MEAN]
    found = {}
    for shots, column in grid[MEAN].items():
        keys = [line[shots].key for line in lines if shots in line]
        whole = cells[keys].notna().all(axis=1) & (len(keys) == len(lines))
        found[column.key] = over(cells[keys]).where(whole)
    return pd.DataFrame(found)


def _plain(cells: pd.DataFrame) -> pd.Series:
    return cells.mean(axis=1)


def _chart(table: Table, grid: Grid) -> Chart:
    shots = list(grid[MEAN])
    x, y = Axis("shots per class", logarithmic=True, marks=shots), Axis("top-1 accuracy (%)")
    panels = [Panel(name, x, y, _series(table, line), joined=True) for name, line in grid.items()]
    caption = "Top-1 accuracy (%) against shots per class."
    bars = " Bars: one sample deviation over runs." if table.spread_columns else ""
    return Chart("shots", caption + bars, [panel for panel in panels if panel.series])


def _series(table: Table, line: Mapping[int, Column]) -> list[Series]:
    points = {
        row: [
            _point(table, row, shots, column)
            for shots, column in line.items()
            if not pd.isna(table.values.loc[row, column.key])
        ]
        for row in table.rows
        if row not in table.aside
    }
    return [Series(row, found) for row, found in points.items() if found]


def _point(table: Table, row: str, shots: int, column: Column) -> Point:
    y, spread = (float(part.loc[row, column.key]) for part in (table.values, table.spread))
    told = f"{row}\n{column.group}, {shots} shots: {y:.1f} %"
    runs = table.origins.get((row, column.key)) or table.origins.get((row, ""), row)
    return Point(shots, y, spread, "\n".join([told, *runs.split("\n")[1:]]))
