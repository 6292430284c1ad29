"""Charts as PNG and PDF by matplotlib, in the column widths of a paper."""

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from petlbench.report.draw import pictures, ranks
from petlbench.report.draw.labels import label_points
from petlbench.report.draw.scale import Scale, front, scales
from petlbench.report.draw.style import FONT, styles
from petlbench.report.draw.text import drawable
from petlbench.report.model.chart import Chart, Panel, Point, Ranks, Series
from petlbench.report.model.picture import Matrix, Sheet

Styles = dict[str, tuple[str, str]]  # label -> colour, marker
WIDTH = 6.9  # inches, both columns of a paper
COLUMN = 3.35  # inches, one column
DPI = 200  # of PNG
UNNAMED, UNNAMED_SIZE = ("#bdbdbd", "o"), 3.5
STYLE: dict[str, Any] = {
    "font.size": 8,
    "font.family": FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.1,
    "pdf.fonttype": 42,  # TrueType: text can be searched and copied
    "svg.fonttype": "none",
    "text.parse_math": False,  # a title may hold dollar signs
}


def render(chart: Chart | Ranks | Matrix | Sheet) -> dict[str, bytes]:
    """Suffix (png, pdf) -> file content."""
    with matplotlib.rc_context(cast(Any, STYLE)):  # its type is a list of all keys
        drawn = figure(chart)
        area = _area(drawn)
        return {suffix: _saved(drawn, suffix, area) for suffix in ("png", "pdf")}


def figure(chart: Chart | Ranks | Matrix | Sheet) -> Figure:
    """The drawn figure, for `render`."""
    match chart:
        case Ranks():
            drawn = ranks.draw(chart)
        case Matrix():
            drawn = pictures.matrix(chart)
        case Sheet():
            drawn = pictures.sheet(chart)
        case _:
            drawn = _panels(chart)
    # fixed from here on: each format would lay the panels out twice again
    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")
    return drawn


def _area(figure: Figure) -> Bbox:
    """The part of the figure with anything in it, in inches: each format would search for it."""
    figure.set_dpi(DPI)  # extents of texts are rounded to pixels
    area: Bbox = figure.get_tightbbox()
    return area.padded(matplotlib.rcParams["savefig.pad_inches"])


def _saved(figure: Figure, suffix: str, area: Bbox) -> bytes:
    """The file without a date, so that equal records give equal files."""
    content = io.BytesIO()
    metadata = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
    figure.savefig(content, format=suffix, dpi=DPI, bbox_inches=area, metadata=metadata)
    return content.getvalue()


def _panels(chart: Chart) -> Figure:
    # four panels are two measured and two published ones, a pair a line
    columns = 2 if len(chart.panels) == 4 else min(len(chart.panels), 3)
    lines = math.ceil(len(chart.panels) / columns)
    figure = Figure(figsize=_size(chart, lines, columns), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no global state, no display needed
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    looks = styles(chart)
    for place, panel in enumerate(chart.panels):
        # the title of an axis is not repeated beside a panel with the same one
        repeated = place % columns and panel.y == chart.panels[place - 1].y
        _panel(axes[place], panel, looks, titled=not repeated)
    for axis in axes[len(chart.panels) :]:
        axis.set_visible(False)
    _label(figure, zip(axes, chart.panels, strict=False))
    if any(panel.joined for panel in chart.panels):
        _legend(figure, axes, looks, 7 if columns > 1 else 4)
    return figure


def _size(chart: Chart, lines: int, columns: int) -> tuple[float, float]:
    """Width and height in inches; higher for more than ten named points."""
    free = [panel for panel in chart.panels if not panel.joined]
    named = max((sum(series.named for series in panel.series) for panel in free), default=0)
    return COLUMN if columns == 1 else WIDTH, (2.3 + 0.08 * max(0, named - 10)) * lines


def _legend(figure: Figure, axes: Any, looks: Styles, columns: int) -> None:
    """One legend of all panels, below them."""
    # not by get_legend_handles_labels(), which leaves out names that begin with an underscore
    handles = {drawn.get_label(): drawn for axis in axes for drawn in axis.containers}
    shown = [label for label in looks if label in handles]
    figure.legend(
        [handles[label] for label in shown],
        [drawable(label) for label in shown],
        loc="outside lower center",
        ncols=min(len(shown), columns),
        columnspacing=1.2,
        handletextpad=0.3,
    )


def _panel(axis: Any, panel: Panel, looks: Styles, *, titled: bool) -> None:
    points = [point for series in panel.series for point in series.points]
    if not points:
        axis.text(0.5, 0.5, "no figures", ha="center", transform=axis.transAxes)
        return
    x, y = scales(panel)
    if panel.front:
        _front(axis, points, x, y)
    for series in sorted(panel.series, key=lambda one: one.named):  # grey ones below
        _series(axis, series, looks[series.label], x, y, joined=panel.joined and not series.alone)
    axis.set(title=drawable(panel.title), xlabel=panel.x.title, xlim=(0, 1), ylim=(0, 1))
    axis.set_ylabel(panel.y.title if titled else "")
    axis.set_xticks([at for at, _ in x.ticks], [text for _, text in x.ticks])
    axis.set_yticks([at for at, _ in y.ticks], [text for _, text in y.ticks])
    axis.grid(color="#d9d9d9", linewidth=0.4)
    axis.set_axisbelow(True)


def _label(figure: Figure, panels: Iterable[tuple[Any, Panel]]) -> None:
    """Write the names of points that no line joins."""
    named = [(a, p) for a, p in panels if not p.joined and any(s.points for s in p.series)]
    if named:
        figure.draw_without_rendering()  # fixes the extents of the axes
    for axis, panel in named:
        label_points(axis, _labels(panel, *scales(panel)))


def _labels(panel: Panel, x: Scale, y: Scale) -> list[tuple[float, float, str]]:
    """Position and name of each point, with its value if the axis is cut above it."""
    return [
        (x.position(point.x), y.position(point.y), _name(series, point, y))
        for series in panel.series
        for point in series.points
    ]


def _name(series: Series, point: Point, y: Scale) -> str:
    if not series.named:
        return ""
    return drawable(f"{series.label} {point.y:.1f} ↓" if y.cuts(point.y) else series.label)


def _series(
    axis: Any, series: Series, look: tuple[str, str], x: Scale, y: Scale, *, joined: bool
) -> None:
    colour, marker = look if series.named else UNNAMED
    across = [x.position(point.x) for point in series.points]
    up = [y.position(point.y) for point in series.points]
    errors = [_half_bar(point, y) for point in series.points]
    axis.errorbar(
        across,
        up,
        yerr=errors if any(errors) else None,
        color=colour,
        marker=marker,
        markersize=None if series.named else UNNAMED_SIZE,
        linestyle="-" if joined else "none",
        elinewidth=0.7,
        markeredgecolor="white",
        markeredgewidth=0.5,
        clip_on=False,  # a marker at the end of an axis is drawn whole
        zorder=3,  # above the grid and the front
        label=series.label,
    )


def _half_bar(point: Point, y: Scale) -> float:
    """Half the length of a point's bar; 0 if the point is cut off."""
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
