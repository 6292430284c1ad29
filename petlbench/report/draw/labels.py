"""Names beside the points of a chart: none covers another one, a point, or a line to a name."""

import math
from collections.abc import Sequence
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
STEPS = 12  # places on a line that are compared with names
GAP = 1.5  # points between two names side by side
MARKER = 2.9  # points around the centre of a marker that a name should not cover
CROWD = 22  # points; points closer than that compete for places
COVERED = 100.0  # penalty of a square pixel that is covered
OUTSIDE = 1e4  # penalty of a name outside the axes


@dataclass(frozen=True)
class Offset:
    """A place of a name: points from the centre of the marker, and its alignment."""

    right: float
    up: float
    across: str
    along: str

    @property
    def has_leader(self) -> bool:
        """Whether a line joins the name to its point."""
        return math.hypot(self.right, self.up) > NEAR


BESIDE = [
    Offset(-4, 3, "right", "bottom"),  # a Pareto front never passes there
    Offset(-6, 0, "right", "center"),
    Offset(4, 3, "left", "bottom"),
    Offset(6, 0, "left", "center"),
    Offset(4, -3, "left", "top"),
    Offset(-4, -3, "right", "top"),
    Offset(0, 6, "center", "bottom"),
    Offset(0, -6, "center", "top"),
]


def _ring(radius: float) -> list[Offset]:
    """Places of names with a line, all as far from the point."""
    offsets = []
    for n in range(DIRECTIONS):
        across, up = (f(2 * math.pi * n / DIRECTIONS) for f in (math.cos, math.sin))
        side = "left" if across > 0.3 else "right" if across < -0.3 else "center"
        height = "bottom" if up > 0.3 else "top" if up < -0.3 else "center"
        offsets.append(Offset(radius * across, radius * up, side, height))
    return offsets


PLACES = [BESIDE, *map(_ring, RINGS)]  # in order of preference


def label_points(axis: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write the name of each (x, y, name), 0..1, at the first place that is free; "": no name.

    Names of crowded points are placed first. If no place is free, the one that covers least is
    taken. The figure has been drawn, which fixes the extent of the axes.
    """
    pixels = axis.figure.dpi / 72  # of a point
    centres = axis.transData.transform([(x, y) for x, y, _ in points])  # (n, 2)
    taken = np.hstack([centres - MARKER * pixels, centres + MARKER * pixels])  # (m, 4)
    names = np.empty((0, 4))
    for place in (n for n in _crowded_first(centres / pixels) if points[n][2]):
        size = _size(axis, points[place][2])
        offset, box, line = _best(axis, centres[place], size, taken, names)
        _write(axis, points[place], offset, line)
        names = np.vstack([names, box])
        taken = np.vstack([taken, box, np.hstack([line, line + 1])])


def _best(
    axis: Any, centre: np.ndarray, size: np.ndarray, taken: np.ndarray, names: np.ndarray
) -> tuple[Offset, np.ndarray, np.ndarray]:
    """The place of a name: its offset, its box (4,) and the places on its line (steps or 0, 2)."""
    frame = np.array(axis.get_window_extent().extents)
    found: list[tuple[float, Offset, np.ndarray, np.ndarray]] = []
    for offsets in PLACES:
        boxes = _boxes(offsets, centre, size, axis.figure.dpi / 72)
        lines = _lines(boxes, centre)[:, : STEPS if offsets[0].has_leader else 0]
        costs = COVERED * (_overlaps(boxes, taken) + _crossings(lines, names))
        costs += _outside(boxes, frame)
        # of equal costs argmin takes the first, hence the preferred one
        best = int(costs.argmin())
        found.append((float(costs[best]), offsets[best], boxes[best], lines[best]))
        if not costs[best]:
            break
    return min(found, key=lambda place: place[0])[1:]


def _crowded_first(centres: np.ndarray) -> list[int]:
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    near = (distances < CROWD).sum(axis=1)
    return sorted(range(len(centres)), key=lambda n: -near[n])


def _size(axis: Any, name: str) -> np.ndarray:
    """Width, with the gap to the next name, and height of a name in pixels."""
    trial = axis.text(0, 0, name, fontsize=SIZE)
    width, height = trial.get_window_extent(axis.figure.canvas.get_renderer()).size
    trial.remove()
    return np.array([width + GAP * axis.figure.dpi / 72, height])


def _boxes(
    offsets: Sequence[Offset], centre: np.ndarray, size: np.ndarray, pixels: float
) -> np.ndarray:
    """(offsets, 4): left, bottom, right and top of the name in pixels; pixels: of a point."""
    shifts = np.array([(o.right, o.up) for o in offsets]) * pixels
    shares = np.array([(SHARE[o.across], SHARE[o.along]) for o in offsets])
    corners = centre + shifts - size * shares
    return np.hstack([corners, corners + size])


def _lines(boxes: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(offsets, steps, 2): places on the line from the point to the name."""
    ends = np.clip(centre, boxes[:, :2], boxes[:, 2:])  # the nearest place of each box
    along = np.linspace(0, 1, STEPS + 1)[1:, None]
    return np.asarray(centre + along * (ends - centre)[:, None])


def _crossings(lines: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(offsets,): places of each line that lie on a name."""
    places = lines[:, :, None]
    inside = (places > names[:, :2]) & (places < names[:, 2:])
    return np.asarray(inside.all(axis=3).sum(axis=(1, 2)))


def _write(axis: Any, point: tuple[float, float, str], offset: Offset, line: np.ndarray) -> None:
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
        end = axis.transData.inverted().transform(line[-1])
        axis.plot([x, end[0]], [y, end[1]], zorder=2, **LEADER)


def _overlaps(boxes: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """(n, 4), (m, 4) -> (n,): area of each box in common with the taken ones, in square pixels."""
    low = np.maximum(boxes[:, None, :2], taken[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], taken[None, :, 2:])
    areas: np.ndarray = (high - low).clip(min=0).prod(axis=2).sum(axis=1)
    return areas


def _outside(boxes: np.ndarray, frame: np.ndarray) -> np.ndarray:
    inside = (boxes[:, :2] >= frame[:2]).all(axis=1) & (boxes[:, 2:] <= frame[2:]).all(axis=1)
    return np.where(inside, 0.0, OUTSIDE)
