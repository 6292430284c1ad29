"""Charts as PNG and PDF, by matplotlib: columns of a paper, colours that the colour-blind tell."""

import io
import math
from collections.abc import Sequence
from typing import Any, cast

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from petlbench.report import diagram
from petlbench.report.chart import Chart, Panel, Point, Ranks, Scale, Series, front, scales
from petlbench.report.labels import label_points

# Okabe and Ito, https://jfly.uni-koeln.de/color/; yellow is left out: too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
WIDTH = 6.9  # inches, both columns of a paper
COLUMN = 3.35
STYLE: dict[str, Any] = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.1,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}


def render(chart: Chart | Ranks) -> dict[str, bytes]:
    """Suffix -> file content."""
    with matplotlib.rc_context(cast(Any, STYLE)):  # its type is a list of all keys
        figure = diagram.draw(chart) if isinstance(chart, Ranks) else _panels(chart)
        return {suffix: _saved(figure, suffix) for suffix in ("png", "pdf")}


def style(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Label -> colour and marker; no two alike among the first 63."""
    return {
        label: (COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)])
        for n, label in enumerate(labels)
    }


def labels_of(chart: Chart) -> list[str]:
    """Every label once, in order."""
    return list(dict.fromkeys(series.label for panel in chart.panels for series in panel.series))


def _saved(figure: Figure, suffix: str) -> bytes:
    """Without a date, so that the same records make the same file."""
    content = io.BytesIO()
    dateless = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
    figure.savefig(content, format=suffix, dpi=200, bbox_inches="tight", metadata=dateless)
    return content.getvalue()


def _panels(chart: Chart) -> Figure:
    columns = 2 if len(chart.panels) == 4 else min(len(chart.panels), 3)
    lines = math.ceil(len(chart.panels) / columns)
    crowd = max((len(panel.series) for panel in chart.panels if not panel.joined), default=0)
    size = (COLUMN if columns == 1 else WIDTH, (2.3 + 0.06 * max(0, crowd - 10)) * lines)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    styles = style(labels_of(chart))
    for place, panel in enumerate(chart.panels):
        ahead = place % columns and panel.y == chart.panels[place - 1].y
        _panel(axes[place], panel, styles, titled=not ahead)
    for left in axes[len(chart.panels) :]:
        left.set_visible(False)
    if any(panel.joined for panel in chart.panels):
        _legend(figure, axes, styles, 7 if columns > 1 else 4)
    return figure


def _legend(figure: Figure, axes: Any, styles: dict[str, tuple[str, str]], most: int) -> None:
    """One legend of all panels, below them."""
    drawn = [axis.get_legend_handles_labels() for axis in axes]
    handles = {text: h for found in drawn for h, text in zip(*found, strict=True)}
    shown = [handles[label] for label in styles if label in handles]
    figure.legend(
        shown,
        [label for label in styles if label in handles],
        loc="outside lower center",
        ncols=min(len(shown), most),
        columnspacing=1.2,
        handletextpad=0.3,
    )


def _panel(axis: Any, panel: Panel, styles: dict[str, tuple[str, str]], *, titled: bool) -> None:
    points = [point for series in panel.series for point in series.points]
    if not points:
        axis.text(0.5, 0.5, "no figures", ha="center", transform=axis.transAxes)
        return
    x, y = scales(panel)
    if panel.front:
        _front(axis, points, x, y)
    for series in panel.series:
        _series(axis, series, styles[series.label], x, y, joined=panel.joined and not series.alone)
    axis.set(title=panel.title, xlabel=panel.x.title, xlim=(0, 1), ylim=(0, 1))
    axis.set_ylabel(panel.y.title if titled else "")
    axis.set_xticks([at for at, _ in x.ticks], [text for _, text in x.ticks])
    axis.set_yticks([at for at, _ in y.ticks], [text for _, text in y.ticks])
    axis.grid(color="#d9d9d9", linewidth=0.4)
    axis.set_axisbelow(True)
    if not panel.joined:
        label_points(axis, _named(panel, x, y))


def _named(panel: Panel, x: Scale, y: Scale) -> list[tuple[float, float, str]]:
    """Where each point stands and what it is called; with its value where the axis is cut."""
    return [
        (
            x.position(point.x),
            y.position(point.y),
            f"{series.label} {point.y:.1f} ↓" if y.cuts(point.y) else series.label,
        )
        for series in panel.series
        for point in series.points
    ]


def _series(
    axis: Any, series: Series, style: tuple[str, str], x: Scale, y: Scale, *, joined: bool
) -> None:
    colour, marker = style
    across = [x.position(point.x) for point in series.points]
    up = [y.position(point.y) for point in series.points]
    errors = [_length(point, y) for point in series.points]
    axis.errorbar(
        across,
        up,
        yerr=errors if any(errors) else None,
        color=colour,
        marker=marker,
        linestyle="-" if joined else "none",
        elinewidth=0.7,
        markeredgecolor="white",
        markeredgewidth=0.5,
        clip_on=False,
        zorder=3,
        label=series.label,
    )


def _length(point: Point, y: Scale) -> float:
    """Half of a point's bar; none where the point is cut off."""
    return point.spread / (y.high - y.low) if point.spread > 0 and not y.cuts(point.y) else 0.0


def _front(axis: Any, points: Sequence[Point], x: Scale, y: Scale) -> None:
    best = front(points)
    axis.plot(
        [*(x.position(point.x) for point in best), 1],
        [*(y.position(point.y) for point in best), y.position(best[-1].y)],
        drawstyle="steps-post",
        color="#7f7f7f",
        linestyle=(0, (3, 2)),
        linewidth=0.9,
    )
