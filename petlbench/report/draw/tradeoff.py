"""The chart of accuracy against costs, a point a row, with the Pareto front."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from petlbench.report.draw.scale import front, scales
from petlbench.report.model.chart import Axis, Chart, Panel, Point, Series
from petlbench.report.model.table import Table
from petlbench.report.read.costs import memory_key
from petlbench.report.read.scores import Scores
from petlbench.report.table import published

MOST_NAMES = 18  # of a panel; more hide the points
TITLES = {
    "parameters_m": "parameters without head (M)",
    "peak_mib": "peak memory (MiB)",
    "saved_mb": "saved for backward (MB)",
    published.MEMORY: published.MEMORY_COLUMN.title,
}


def charts(scores: Scores, table: Table, mean: str) -> list[Chart]:
    """At most one: the mean against parameters (logarithmic) and against memory.

    Published rows have separate panels: their memory is another measure. Empty if no row has both
    figures.
    """
    measured = [row for row in table.rows if row not in table.unranked]
    others = [row for row in table.rows if row in table.unranked]
    methods = published.methods(scores)
    own_panels = [
        _panel(table, methods, measured, mean, "parameters_m", "Parameters"),
        _panel(table, methods, measured, mean, memory_key(scores.finished), "Memory"),
    ]
    published_panels = [
        _panel(table, methods, others, mean, "parameters_m", "Parameters, as published"),
        _panel(table, methods, others, mean, published.MEMORY, "Memory, as published"),
    ]
    panels = [_named(panel) for panel in [*own_panels, *published_panels] if panel.series]
    caption = _caption(panels, mean, published=any(panel.series for panel in published_panels))
    return [Chart("tradeoff", caption, panels)] if panels else []


def _named(panel: Panel) -> Panel:
    """The panel, where of many points only some have their name beside them."""
    if len(panel.series) <= MOST_NAMES:
        return panel
    points = {series.label: series.points[0] for series in panel.series}
    best, is_cut = front(list(points.values())), scales(panel)[1].cuts
    kept = {label for label, point in points.items() if point in best or is_cut(point.y)}
    rest = sorted(points.keys() - kept, key=lambda label: (-points[label].y, label))
    kept |= set(rest[: max(0, MOST_NAMES - len(kept))])
    return replace(panel, series=[replace(s, named=s.label in kept) for s in panel.series])


def _caption(panels: Sequence[Panel], mean: str, *, published: bool) -> str:
    points = [(panel, point) for panel in panels for s in panel.series for point in s.points]
    sentences = [
        f"Top-1 accuracy ({mean}, %) against trained parameters and against memory.",
        "The dashed line is the Pareto front: no other method is as cheap and more accurate.",
    ]
    if any(not series.named for panel in panels for series in panel.series):
        sentences.append(
            "Of many methods those on the front, the most accurate ones and those below the end "
            "of the axis have their name beside the point."
        )
    if published:
        sentences.append("As published: figures of other authors, by their own measures.")
    if any(point.spread > 0 for _, point in points):
        sentences.append("Bars: one sample deviation of the mean over runs.")
    if any(scales(panel)[1].cuts(point.y) for panel, point in points):
        sentences.append("↓: below the end of the axis; the value stands beside the name.")
    return " ".join(sentences)


def _panel(
    table: Table,
    methods: Mapping[str, str],
    rows: Sequence[str],
    mean: str,
    cost: str,
    title: str,
) -> Panel:
    """A point for each row with both figures."""
    figures = table.values.reindex(columns=[mean, cost])
    shown = [row for row in rows if not figures.loc[row].isna().any()]
    series = [
        Series(
            table.printed_label(row),
            [_point(table, row, mean, cost)],
            method=methods.get(row, ""),
        )
        for row in shown
    ]
    x = Axis(TITLES[cost], logarithmic=cost == "parameters_m")
    return Panel(title, x, Axis(f"top-1 accuracy, {mean} (%)"), series, front=True)


def _point(table: Table, row: str, mean: str, cost: str) -> Point:
    x, y = (float(table.values.loc[row, key]) for key in (cost, mean))
    spread = float(table.spread.loc[row, mean])
    deviation = f" ± {spread:.1f}" if not pd.isna(spread) else ""
    lines = table.provenance.get((row, ""), row).split("\n")
    figures = [f"{mean}: {y:.1f}{deviation} %", f"{TITLES[cost]}: {x:.4g}"]
    return Point(x, y, spread, "\n".join([lines[0], *figures, *lines[1:]]))
