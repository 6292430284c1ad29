"""The diagram of average ranks with the critical difference (Demsar, JMLR 2006, figure 1)."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from petlbench.report.draw.scale import joined
from petlbench.report.draw.text import drawable
from petlbench.report.model.chart import Ranks

WIDTH = 4.2  # inches
UNIT = 0.5  # inches a unit of height
LINE, BAR = 0.4, 0.28  # units between labels, between bars
SIDE = 0.55  # space for labels at each side, as a fraction of the axis


def draw(chart: Ranks) -> Figure:
    """Methods left and right below a line of ranks; bars join those closer than critical."""
    ranks = sorted(chart.ranks.items(), key=lambda item: item[1])
    bars, half = joined(chart), math.ceil(len(ranks) / 2)
    top = 0.5 + BAR * len(bars)
    head = 0.95 if chart.critical is not None else 0.5
    foot = top + LINE * (half - 1) + 0.25
    figure = Figure(figsize=(WIDTH, UNIT * (head + foot)))
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    low, high = 1, max(2, math.ceil(ranks[-1][1]))  # an axis of zero length cannot be drawn
    side = SIDE * (high - low)
    axis.set(xlim=(low - side, high + side), ylim=(foot, -head))
    axis.axis("off")
    _line(axis, low, high)
    for place, (label, rank) in enumerate(ranks):
        left = place < half
        height = top + LINE * (place if left else len(ranks) - 1 - place)
        _method(axis, label, rank, height, low if left else high, (high - low) * (-1) ** left)
    _bars(axis, bars, overhang=0.005 * side)
    if chart.critical is not None:
        _critical(axis, low, chart.critical)
    return figure


def _line(axis: Any, low: int, high: int) -> None:
    """The horizontal axis with its ticks."""
    axis.plot([low, high], [0, 0], color="black", linewidth=0.8)
    step = max(1, (high - low) // 8)  # at most about ten labels
    for tick in range(low, high + 1, step):
        axis.plot([tick, tick], [-0.12, 0], color="black", linewidth=0.8)
        axis.text(tick, -0.18, str(tick), ha="center", va="bottom")


def _bars(axis: Any, spans: Sequence[tuple[float, float]], overhang: float) -> None:
    for n, (first, last) in enumerate(spans):
        ends = [first - overhang, last + overhang]
        axis.plot(ends, [0.3 + BAR * n] * 2, color="black", linewidth=2.2)


def _method(
    axis: Any, label: str, rank: float, height: float, end: float, outwards: float
) -> None:
    """A line from the rank down and outwards to the label; outwards: signed axis length."""
    stop = end + 0.04 * outwards
    axis.plot([rank, rank, stop], [0, height, height], color="#555555", linewidth=0.6)
    name = drawable(label)
    text = f"{rank:.2f}  {name}" if outwards > 0 else f"{name}  {rank:.2f}"
    side = "left" if outwards > 0 else "right"
    axis.text(stop + 0.015 * outwards, height, text, ha=side, va="center")


def _critical(axis: Any, low: float, critical: float) -> None:
    """The length of the critical difference, above the axis."""
    axis.plot([low, low + critical], [-0.75, -0.75], color="black", linewidth=0.8)
    for end in (low, low + critical):
        axis.plot([end, end], [-0.82, -0.68], color="black", linewidth=0.8)
    axis.text(low + critical, -0.75, f"  CD = {critical:.2f}", ha="left", va="center")
