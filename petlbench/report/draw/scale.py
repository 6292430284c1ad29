"""Positions on the axes of a panel, 0..1, which matplotlib and the page share."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from petlbench.report.model.chart import Axis, Panel, Point, Ranks

MARGIN = 0.06  # of an axis, free beyond the outermost points
FAR = 1.0  # distance, in ranges of the others, beyond which the lowest value is cut off
MANY = 20  # points, above which an outer fence cuts off low ones
FENCE = 3.0  # interquartile ranges below the first quartile: Tukey's outer fence
ZERO_GAP = 0.35  # decades between zero and the smallest value on a logarithmic axis
STEPS = (1, 2, 2.5, 5, 10)  # between ticks, times a power of ten
FEWEST_DECADES = 1.6  # below this range, powers of ten alone are too few ticks


@dataclass(frozen=True)
class Scale:
    """low, high: the ends of an axis, in decades if it is logarithmic."""

    low: float
    high: float
    smallest: float | None  # above zero, on a logarithmic axis
    ticks: Sequence[tuple[float, str]] = ()  # position, label

    def position(self, value: float) -> float:
        """0..1 for a value between the ends, 0 below the low end."""
        along = (_along(value, self.smallest) - self.low) / (self.high - self.low)
        return max(0.0, along)

    def cuts(self, value: float) -> bool:
        """Whether a value is below the low end."""
        return _along(value, self.smallest) < self.low


def scales(panel: Panel) -> tuple[Scale, Scale]:
    """The scales of the horizontal and the vertical axis; the panel must have a point."""
    points = [point for series in panel.series for point in series.points]
    shown = _inside_fence(points) if panel.front and len(points) > MANY else points
    heights = sorted(value for point in shown for value in _extent(point))
    if panel.front:
        heights = list(_without_far(heights))
    return scale(panel.x, [point.x for point in points]), scale(panel.y, heights)


def _inside_fence(points: Sequence[Point]) -> list[Point]:
    """Many points without the low ones that a box plot calls far out."""
    first, _, third = statistics.quantiles((point.y for point in points), n=4)
    return [point for point in points if point.y >= first - FENCE * (third - first)]


def _extent(point: Point) -> tuple[float, float]:
    """Lower and upper end of a point's bar."""
    spread = 0.0 if math.isnan(point.spread) else point.spread
    return point.y - spread, point.y + spread


def _without_far(heights: Sequence[float]) -> Sequence[float]:
    """Sorted values without the lowest point, if that is far below all others."""
    for place in (2, 1):  # a point has the two ends of its bar
        rest = heights[place:]
        if len(rest) > 2 and rest[0] - heights[place - 1] > FAR * (rest[-1] - rest[0]):
            return rest
    return heights


def scale(axis: Axis, values: Iterable[float]) -> Scale:
    """The scale of an axis that shows these values, with round ticks."""
    shown = sorted({*values, *axis.marks})
    smallest = min((v for v in shown if v > 0), default=None) if axis.logarithmic else None
    ends = [_along(shown[0], smallest), _along(shown[-1], smallest)]
    margin = (ends[1] - ends[0]) * MARGIN or 0.5  # a single value is in the middle
    blank = Scale(ends[0] - margin, ends[1] + margin, smallest)
    return replace(blank, ticks=_ticks(axis, shown, blank))


def _ticks(axis: Axis, shown: Sequence[float], blank: Scale) -> list[tuple[float, str]]:
    if axis.marks or blank.smallest:
        values = list(axis.marks or _decades(shown))
        labels = [f"{value:.6g}" for value in values]
    else:
        values, labels = _round_values(blank)
    span = blank.high - blank.low
    places = [(_along(value, blank.smallest) - blank.low) / span for value in values]
    return [(at, text) for at, text in zip(places, labels, strict=True) if 0 <= at <= 1]


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front: no other point has less x and no less y, or as much x and more y."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def joined(chart: Ranks) -> list[tuple[float, float]]:
    """First and last rank of each largest set of methods closer than `critical`."""
    if chart.critical is None:
        return []
    ranks = sorted(chart.ranks.values())
    spans: list[tuple[float, float]] = []
    for first in ranks:
        last = max(rank for rank in ranks if rank - first < chart.critical)
        if last > first and (not spans or last > spans[-1][1]):
            spans.append((first, last))
    return spans


def _along(value: float, smallest: float | None) -> float:
    if smallest is None:
        return value
    return math.log10(value) if value > 0 else math.log10(smallest) - ZERO_GAP


def _decades(shown: Sequence[float]) -> list[float]:
    """0 if it is shown, powers of ten, and their 2 and 5 on a short axis."""
    above = [value for value in shown if value > 0]
    powers = range(math.floor(math.log10(above[0])) - 1, math.ceil(math.log10(above[-1])) + 1)
    factors = (1,) if math.log10(above[-1] / above[0]) > FEWEST_DECADES else (1, 2, 5)
    zero = [0.0] if shown[0] <= 0 else []
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return zero + [tick for tick in ticks if not zero or tick >= above[0]]


def _round_values(blank: Scale) -> tuple[list[float], list[str]]:
    """Four to seven round values between the ends, with equally many decimals."""
    rough = (blank.high - blank.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in STEPS if factor * power >= rough)
    first = math.ceil(blank.low / step)
    values = [n * step for n in range(first, math.floor(blank.high / step) + 1)]
    decimals = max(len(f"{value:.6g}".partition(".")[2]) for value in values)
    return values, [f"{value:.{decimals}f}" for value in values]
