"""Charts as data: panels of points or lines, and average ranks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """x and y in the units of the axes; spread: deviation of y; provenance: its runs, as text."""

    x: float
    y: float
    spread: float = math.nan
    provenance: str = ""


@dataclass(frozen=True)
class Series:
    """The points of one label. alone: never joined by lines, also in a joined panel.

    method: the name of its method, which has one colour and marker everywhere; "" if it has none.
    named: whether points that no line joins have their name beside them; others are grey.
    """

    label: str
    points: Sequence[Point]
    alone: bool = False
    method: str = ""
    named: bool = True


@dataclass(frozen=True)
class Axis:
    """title: with the unit. marks: all values that the axis can have, such as shots."""

    title: str
    logarithmic: bool = False
    marks: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """joined: lines join the points of a series. front: draw the Pareto front, and cut the
    vertical axis if one low point would press all others together.
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
    """Average ranks on a line; bars join labels closer than `critical` (None: no test).

    title: a sentence. test: for example "critical difference 3.18 (Nemenyi's test, ...)".
    """

    name: str
    title: str
    ranks: Mapping[str, float]
    critical: float | None
    test: str = ""

    @property
    def caption(self) -> str:
        """Title, and the meaning of the bars."""
        if self.critical is None:
            return self.title
        return f"{self.title} Methods joined by a bar differ by less than the {self.test}."
