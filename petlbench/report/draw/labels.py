"""Names beside the points of a chart: none covers another one, a point, or a line to a name."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.patheffects import withStroke

SIZE = 6.5  # points
NEAR = 6.5  # points; a line joins a more distant name to its point
RINGS = range(11, 240, 6)  # points; distances of names with a line
DIRECTIONS = 24  # on a ring
SHARE = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}  # of its size
LEADER: dict[str, Any] = {"linewidth": 0.4, "color": "#888888", "clip_on": False}
STEPS = 24  # places on a line that are compared with names
GAP = 1.5  # points between two names side by side
MARKER = 2.9  # points around the centre of a marker that a name should not cover
CHOICES = 50  # places of each name that are compared with those of the others
STARTS = 200  # of the search, in different orders of the names

# costs of a place, beside its distance from the point in points
COVERED = 100.0  # a square point of a marker or of another name below the name
CROSSED = 100.0  # a place of a line on a name
MET = 300.0  # two lines that cross
PASSED = 60.0  # a marker on the line
MISTAKEN = 60.0  # another marker nearer to the name than its own
OUTSIDE = 1e4  # a name outside the axes
UNNAMED = 0.2  # weight of a marker without a name


@dataclass(frozen=True)
class Offset:
    """A place of a name: points from the centre of the marker, and its alignment."""

    right: float
    up: float
    across: str
    along: str

    @property
    def distance(self) -> float:
        """From the centre of the marker, in points."""
        return math.hypot(self.right, self.up)

    @property
    def has_leader(self) -> bool:
        """Whether a line joins the name to its point."""
        return self.distance > NEAR


@dataclass(frozen=True)
class Choices:
    """The best places of a name beside the markers, in points; one without a line ends at centre.

    centre (2,); boxes (n, 4): left, bottom, right and top; ends (n, 2) of the lines; costs (n,).
    """

    offsets: list[Offset]
    centre: np.ndarray
    boxes: np.ndarray
    ends: np.ndarray
    costs: np.ndarray

    @property
    def lines(self) -> np.ndarray:
        """(n, steps, 2): places on each line, without the point."""
        steps = np.linspace(0, 1, STEPS + 1)[1:, None]
        return np.asarray(self.centre + steps * (self.ends - self.centre)[:, None])


BESIDE = [
    Offset(-4, 3, "right", "bottom"),  # a Pareto front never passes there
    Offset(4, 3, "left", "bottom"),
    Offset(4, -3, "left", "top"),
    Offset(-4, -3, "right", "top"),
    Offset(-6, 0, "right", "center"),
    Offset(6, 0, "left", "center"),
    Offset(0, 6, "center", "bottom"),
    Offset(0, -6, "center", "top"),
]


def _ring(radius: float) -> list[Offset]:
    """Places of names with a line, all as far from the point."""
    offsets = []
    for n in range(DIRECTIONS):
        across, up = (f(2 * math.pi * n / DIRECTIONS) for f in (math.cos, math.sin))
        height = "bottom" if up > 0.3 else "top" if up < -0.3 else "center"
        # above and below, the line may end at any part of the name
        sides = ["center", "left", "right"] if abs(across) < 0.6 else []
        sides = sides or ["left" if across > 0 else "right"]
        offsets += [Offset(radius * across, radius * up, side, height) for side in sides]
    return offsets


PLACES = [*BESIDE, *(offset for radius in RINGS for offset in _ring(radius))]


def label_points(axis: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write the name of each (x, y, name), 0..1, where all cost least together; "": no name.

    The figure has been drawn, which fixes the extent of the axes.
    """
    pixels = axis.figure.dpi / 72  # of a point
    centres = axis.transData.transform([(x, y) for x, y, _ in points]) / pixels  # (n, 2)
    frame = np.array(axis.get_window_extent().extents) / pixels
    named = [n for n, (_, _, name) in enumerate(points) if name]
    weights = np.array([1.0 if name else UNNAMED for _, _, name in points])
    choices = [_choices(n, centres, weights, _size(axis, points[n][2]), frame) for n in named]
    for n, own, place in zip(named, choices, _arranged(choices), strict=True):
        end = axis.transData.inverted().transform(own.ends[place] * pixels)
        _write(axis, points[n], own.offsets[place], end)


def _arranged(choices: Sequence[Choices]) -> list[int]:
    """The place of each name: the lowest sum of costs and conflicts that a local search finds.

    Each start places the names one after the other in another order, and moves each while that
    lowers the sum.
    """
    if not choices:
        return []
    conflicts = {
        (n, m): _conflicts(own, choices[m]) for n, own in enumerate(choices) for m in range(n)
    }
    conflicts |= {(m, n): both.T for (n, m), both in conflicts.items()}
    orders = np.random.default_rng(0)  # equal records give equal files
    starts = [orders.permutation(len(choices)).tolist() for _ in range(STARTS)]
    found = [_search(order, choices, conflicts) for order in starts]
    places, _ = min(found, key=lambda result: result[1])
    return [places[n] for n in range(len(choices))]


def _search(
    order: Sequence[int],
    choices: Sequence[Choices],
    conflicts: Mapping[tuple[int, int], np.ndarray],
) -> tuple[dict[int, int], float]:
    """The place of each name, where no single move lowers the sum, and the sum."""
    found: dict[int, int] = {}
    costs: dict[int, float] = {}
    moved = True
    while moved:
        moved = False
        for n in order:
            own = choices[n].costs + sum(conflicts[n, m][:, k] for m, k in found.items() if m != n)
            place = int(own.argmin())
            if n not in found or own[place] < own[found[n]] - 1e-6:  # no circle by rounding
                found[n], moved = place, True
            costs[n] = float(own[found[n]])
    return found, sum(costs.values())  # each conflict counts for both names


def _choices(
    n: int, centres: np.ndarray, weights: np.ndarray, size: np.ndarray, frame: np.ndarray
) -> Choices:
    """Places of the name of point n beside the markers of all points; size (2,), frame (4,)."""
    centre, rivals, weights = centres[n], np.delete(centres, n, axis=0), np.delete(weights, n)
    shifts = np.array([(o.right, o.up) for o in PLACES])
    shares = np.array([(SHARE[o.across], SHARE[o.along]) for o in PLACES])
    corners = centre + shifts - size * shares
    boxes = np.hstack([corners, corners + size])
    has_leader = np.array([o.has_leader for o in PLACES])
    ends = np.where(has_leader[:, None], _nearest(boxes, centre), centre)
    costs = np.array([o.distance for o in PLACES]) + _outside(boxes, frame)
    costs += COVERED * _overlaps(boxes, np.hstack([centres - MARKER, centres + MARKER])).sum(
        axis=1
    )
    costs += PASSED * (_distances(rivals, centre, ends) < MARKER) @ weights
    costs += MISTAKEN * _mistaken(boxes, centre, rivals) @ weights
    kept = costs.argsort(kind="stable")[:CHOICES]
    return Choices([PLACES[k] for k in kept], centre, boxes[kept], ends[kept], costs[kept])


def _conflicts(own: Choices, other: Choices) -> np.ndarray:
    """(n, m): the cost of each place of a name together with each place of another one."""
    costs = COVERED * _overlaps(own.boxes, other.boxes)
    costs += CROSSED * (_on(own.lines, other.boxes) + _on(other.lines, own.boxes).T)
    return np.asarray(costs + MET * _meet(own, other))


def _size(axis: Any, name: str) -> np.ndarray:
    """Width, with the gap to the next name, and height of a name in points."""
    trial = axis.text(0, 0, name, fontsize=SIZE)
    extent = trial.get_window_extent(axis.figure.canvas.get_renderer())
    trial.remove()
    return np.asarray(extent.size / (axis.figure.dpi / 72) + np.array([GAP, 0.0]))


def _nearest(boxes: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(n, 4), (2,) or (m, 1, 2) -> (n, 2) or (m, n, 2): the nearest place of each box."""
    return np.asarray(np.clip(place, boxes[:, :2], boxes[:, 2:]))


def _on(lines: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n, steps, 2), (m, 4) -> (n, m): places of each line in each box."""
    places = lines[:, None]  # (n, 1, steps, 2)
    inside = (places > boxes[:, None, :2]) & (places < boxes[:, None, 2:])
    return np.asarray(inside.all(axis=3).sum(axis=2))


def _meet(own: Choices, other: Choices) -> np.ndarray:
    """(n, m): whether the line of each place crosses the line of each place of another name."""

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        first, second = b - a, c - a
        signs = np.sign(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])
        return np.asarray(signs)

    ends, others = own.ends[:, None], other.ends[None]
    apart = side(own.centre, ends, other.centre) * side(own.centre, ends, others) < 0
    across = side(other.centre, others, own.centre) * side(other.centre, others, ends) < 0
    return np.asarray(apart & across)


def _distances(places: np.ndarray, centre: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(m, 2), (2,), (n, 2) -> (n, m): of each place from each line centre-end; inf: no line."""
    line, to = ends - centre, places - centre
    length = (line**2).sum(axis=1)[:, None]
    share = np.clip(line @ to.T / np.maximum(length, 1e-9), 0, 1)
    gaps = np.linalg.norm(to[None] - share[..., None] * line[:, None], axis=2)
    return np.asarray(np.where(length > 0, gaps, np.inf))


def _mistaken(boxes: np.ndarray, centre: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """(n, 4), (2,), (m, 2) -> (n, m): rivals near a name, and nearer than its own point."""
    own = np.linalg.norm(_nearest(boxes, centre) - centre, axis=1)
    gaps = np.linalg.norm(_nearest(boxes, rivals[:, None]) - rivals[:, None], axis=2)  # (m, n)
    return np.asarray(gaps < np.minimum(own, NEAR)).T


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, 4), (m, 4) -> (n, m): the area that each two boxes share, in square points."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    areas: np.ndarray = (high - low).clip(min=0).prod(axis=2)
    return areas


def _outside(boxes: np.ndarray, frame: np.ndarray) -> np.ndarray:
    inside = (boxes[:, :2] >= frame[:2]).all(axis=1) & (boxes[:, 2:] <= frame[2:]).all(axis=1)
    return np.where(inside, 0.0, OUTSIDE)


def _write(axis: Any, point: tuple[float, float, str], offset: Offset, end: np.ndarray) -> None:
    """Write a name, and the line to its end (2,), 0..1."""
    x, y, name = point
    axis.annotate(
        name,
        (x, y),
        (offset.right, offset.up),
        textcoords="offset points",
        ha=offset.across,
        va=offset.along,
        fontsize=SIZE,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],  # readable on lines
        annotation_clip=False,  # also for a point at the end of an axis
    )
    if offset.has_leader:
        axis.plot([x, end[0]], [y, end[1]], zorder=2, **LEADER)
