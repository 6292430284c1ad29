"""Accuracy against a cost, a point a row, with the Pareto front."""

from collections.abc import Sequence

import pandas as pd

from petlbench.report import costs, published
from petlbench.report.chart import Axis, Chart, Panel, Point, Series, scales
from petlbench.report.scores import Scores
from petlbench.report.table import Table

TITLES = {
    "parameters_m": "parameters without head (M)",
    "peak_mib": "peak memory (MiB)",
    "saved_mb": "saved for backward (MB)",
    published.MEMORY: published.MEMORY_COLUMN.title,
}


def charts(scores: Scores, table: Table, mean: str) -> list[Chart]:
    """One of two panels: the mean against parameters (logarithmic) and against memory.

    Published rows have panels of their own: their memory is of another measure. No chart where no
    row has both figures.
    """
    own = [row for row in table.rows if row not in table.aside]
    others = [row for row in table.rows if row in table.aside]
    measured = [
        _panel(table, own, mean, "parameters_m", "Parameters"),
        _panel(table, own, mean, costs.memory_key(scores.finished), "Memory"),
    ]
    printed = [
        _panel(table, others, mean, "parameters_m", "Parameters, as published"),
        _panel(table, others, mean, published.MEMORY, "Memory, as published"),
    ]
    panels = [panel for panel in [*measured, *printed] if panel.series]
    said = _caption(panels, mean, published=any(panel.series for panel in printed))
    return [Chart("tradeoff", said, panels)] if panels else []


def _caption(panels: Sequence[Panel], mean: str, *, published: bool) -> str:
    points = [(panel, point) for panel in panels for one in panel.series for point in one.points]
    said = [
        f"Top-1 accuracy ({mean}, %) against trained parameters and against memory.",
        "The dashed line is the Pareto front: no other method is as cheap and more accurate.",
    ]
    if published:
        said.append("As published: what others printed, of their own runs and measures.")
    if any(point.spread > 0 for _, point in points):
        said.append("Bars: one sample deviation of the mean over runs.")
    if any(scales(panel)[1].cuts(point.y) for panel, point in points):
        said.append("↓: too far below the others for the axis; its value stands beside it.")
    return " ".join(said)


def _panel(table: Table, rows: Sequence[str], mean: str, cost: str, title: str) -> Panel:
    """A point for each of the rows that has both figures."""
    there = table.values.reindex(columns=[mean, cost])
    shown = [row for row in rows if not there.loc[row].isna().any()]
    series = [Series(table.named(row), [_point(table, row, mean, cost)]) for row in shown]
    x = Axis(TITLES[cost], logarithmic=cost == "parameters_m")
    return Panel(title, x, Axis(f"top-1 accuracy, {mean} (%)"), series, front=True)


def _point(table: Table, row: str, mean: str, cost: str) -> Point:
    x, y = (float(table.values.loc[row, key]) for key in (cost, mean))
    spread = float(table.spread.loc[row, mean])
    told = f" ± {spread:.1f}" if not pd.isna(spread) else ""
    lines = table.origins.get((row, ""), row).split("\n")
    figures = [f"{mean}: {y:.1f}{told} %", f"{TITLES[cost]}: {x:.4g}"]
    return Point(x, y, spread, "\n".join([lines[0], *figures, *lines[1:]]))
