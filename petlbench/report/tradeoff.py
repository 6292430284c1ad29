"""Accuracy against a cost, a point a row, with the Pareto front."""

from collections.abc import Sequence

import pandas as pd

from petlbench.report import costs
from petlbench.report.chart import Axis, Chart, Panel, Point, Series, scales
from petlbench.report.scores import Scores
from petlbench.report.table import Table

TITLES = {
    "parameters_m": "parameters without head (M)",
    "peak_mib": "peak memory (MiB)",
    "saved_mb": "saved for backward (MB)",
}


def chart_of(scores: Scores, table: Table, mean: str, name: str) -> Chart:
    """Two panels: the mean against parameters (logarithmic) and against memory."""
    memory = costs.memory_key(scores.finished)
    panels = [
        _panel(table, mean, "parameters_m", "Parameters", logarithmic=True),
        _panel(table, mean, memory, "Memory", logarithmic=False),
    ]
    return Chart(name, _caption(panels, mean), panels)


def _caption(panels: Sequence[Panel], mean: str) -> str:
    points = [point for panel in panels for series in panel.series for point in series.points]
    said = [
        f"Top-1 accuracy ({mean}, %) against trained parameters and against memory.",
        "The dashed line is the Pareto front: no other method is as cheap and more accurate.",
    ]
    if any(point.spread > 0 for point in points):
        said.append("Bars: one sample deviation of the mean over runs.")
    if points and any(scales(panels[0])[1].cuts(point.y) for point in points):
        said.append("↓: too far below the others for the axis; its value stands beside it.")
    return " ".join(said)


def _panel(table: Table, mean: str, cost: str, title: str, *, logarithmic: bool) -> Panel:
    shown = [
        row
        for row in table.rows
        if row not in table.aside and not table.values.loc[row, [mean, cost]].isna().any()
    ]
    series = [Series(row, [_point(table, row, mean, cost)]) for row in shown]
    x = Axis(TITLES[cost], logarithmic)
    return Panel(title, x, Axis(f"top-1 accuracy, {mean} (%)"), series, front=True)


def _point(table: Table, row: str, mean: str, cost: str) -> Point:
    x, y = (float(table.values.loc[row, key]) for key in (cost, mean))
    spread = float(table.spread.loc[row, mean])
    told = f" ± {spread:.1f}" if not pd.isna(spread) else ""
    lines = table.origins.get((row, ""), row).split("\n")
    figures = [f"{mean}: {y:.1f}{told} %", f"{TITLES[cost]}: {x:.4g}"]
    return Point(x, y, spread, "\n".join([lines[0], *figures, *lines[1:]]))
