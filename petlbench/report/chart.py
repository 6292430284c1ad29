"""The charts that matplotlib and the page draw alike: panels of points or lines, and ranks.

Positions are computed here, so that both draw the same picture: an axis maps a value to 0..1.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MARGIN = 0.06  # of an axis, free beyond the outermost points
FAR = 1.0  # a lowest value further from the others than this times their range is cut off
ZERO_GAP = 0.35  # decades between zero and the smallest value on a logarithmic axis
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Point:
    """x, y in the units of the axes; spread of y; origin: where it comes from, in words."""

    x: float
    y: float
    spread: float = math.nan
    origin: str = ""


@dataclass(frozen=True)
class Series:
    """The points of one method, under its label. alone: not joined, whatever the panel."""

    label: str
    points: Sequence[Point]
    alone: bool = False


@dataclass(frozen=True)
class Axis:
    """title: with the unit. marks: the values of an axis that has no others, such as shots."""

    title: str
    logarithmic: bool = False
    marks: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """joined: the points of a series are joined by lines. front: draw the Pareto front, and cut
    the vertical axis where one low point would press all others together.
    """

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    joined: bool = False
    front: bool = False


@dataclass(frozen=True)
class Chart:
    """Panels side by side that share their labels."""

    name: str
    caption: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Ranks:
    """Average ranks on a line; labels closer than `critical` are joined (None: no test).

    title: a sentence. test: "critical difference 3.18 (of what)".
    """

    name: str
    title: str
    ranks: Mapping[str, float]
    critical: float | None
    test: str = ""

    @property
    def caption(self) -> str:
        """What the diagram shows."""
        if self.critical is None:
            return self.title
        return f"{self.title} Methods joined by a bar differ by less than the {self.test}."


@dataclass(frozen=True)
class Scale:
    """Where the values of an axis stand: 0 at its low end, 1 at its high end."""

    low: float
    high: float
    smallest: float | None  # above zero, on a logarithmic axis
    ticks: Sequence[tuple[float, str]]  # position, label

    def position(self, value: float) -> float:
        """0..1 for a value between the ends; what is below the low end stands on it."""
        along = (_along(value, self.smallest) - self.low) / (self.high - self.low)
        return max(0.0, along)

    def cuts(self, value: float) -> bool:
        """Whether a value is below the low end."""
        return _along(value, self.smallest) < self.low


def scales(panel: Panel) -> tuple[Scale, Scale]:
    """The scales of a panel's axes; it must have a point."""
    points = [point for series in panel.series for point in series.points]
    heights = sorted(value for point in points for value in _reach(point))
    if panel.front:
        heights = list(_without_far(heights))
    return scale(panel.x, [point.x for point in points]), scale(panel.y, heights)


def _reach(point: Point) -> tuple[float, float]:
    spread = 0.0 if math.isnan(point.spread) else point.spread
    return point.y - spread, point.y + spread


def _without_far(heights: Sequence[float]) -> Sequence[float]:
    """Sorted values without the lowest point, if that is far below all others."""
    for place in (2, 1):  # a point may reach down and up
        rest = heights[place:]
        if len(rest) > 2 and rest[0] - heights[place - 1] > FAR * (rest[-1] - rest[0]):
            return rest
    return heights


def scale(axis: Axis, values: Iterable[float]) -> Scale:
    """The scale of an axis that shows these values, with round ticks."""
    shown = sorted({*values, *axis.marks})
    smallest = min((v for v in shown if v > 0), default=None) if axis.logarithmic else None
    ends = [_along(shown[0], smallest), _along(shown[-1], smallest)]
    room = (ends[1] - ends[0]) * MARGIN or 0.5
    made = Scale(ends[0] - room, ends[1] + room, smallest, [])
    if axis.marks or smallest:
        chosen = axis.marks or _decades(shown)
        told = [f"{value:.6g}" for value in chosen]
    else:
        chosen, told = _round_values(made)
    ticks = [(_along(v, smallest) - made.low) / (made.high - made.low) for v in chosen]
    kept = [(at, text) for at, text in zip(ticks, told, strict=True) if 0 <= at <= 1]
    return Scale(made.low, made.high, smallest, kept)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: none has less x and no less y, or as much x and more y."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not found or point.y > found[-1].y:
            found.append(point)
    return found


def joined(chart: Ranks) -> list[tuple[float, float]]:
    """First and last rank of each largest set of methods that are closer than `critical`."""
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
    """0 if it is shown, powers of ten, and their 2 and 5 where that leaves few ticks."""
    above = [value for value in shown if value > 0]
    powers = range(math.floor(math.log10(above[0])) - 1, math.ceil(math.log10(above[-1])) + 1)
    wide = math.log10(above[-1] / above[0]) > 1.6
    factors = (1,) if wide else (1, 2, 5)
    zero = [0.0] if shown[0] <= 0 else []
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return zero + [tick for tick in ticks if not zero or tick >= above[0]]


def _round_values(made: Scale) -> tuple[list[float], list[str]]:
    """Four to seven round values between the ends, with equally many digits after the point."""
    rough = (made.high - made.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in STEPS if factor * power >= rough)
    first = math.ceil(made.low / step)
    values = [n * step for n in range(first, math.floor(made.high / step) + 1)]
    digits = max(len(f"{value:.6g}".partition(".")[2]) for value in values)
    return values, [f"{value:.{digits}f}" for value in values]
