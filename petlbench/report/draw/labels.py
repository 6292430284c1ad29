"""Names beside the points of a chart, placed with the least overlap."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patheffects import withStroke

SIZE = 6.5  # points
OFFSETS = [  # points from the centre of the marker, alignment; in order of preference
    (-4, 3, "right", "bottom"),  # a Pareto front never passes there
    (-6, 0, "right", "center"),
    (4, 3, "left", "bottom"),
    (6, 0, "left", "center"),
    (4, -3, "left", "top"),
    (-4, -3, "right", "top"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
    (-10, 10, "right", "bottom"),
    (10, 10, "left", "bottom"),
    (10, -10, "left", "top"),
    (-10, -10, "right", "top"),
    (-18, 18, "right", "bottom"),
    (18, 18, "left", "bottom"),
    (18, -18, "left", "top"),
    (-18, -18, "right", "top"),
]
SHARE = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}  # of its size
NEAR = 6  # points; a line joins a more distant name to its point
LEADER: dict[str, Any] = {
    "arrowstyle": "-",
    "linewidth": 0.4,
    "color": "#888888",
    "shrinkA": 0,
    "shrinkB": 2,
}
MARKER = 4  # pixels around a point that a name should not cover
OUTSIDE = 1e4  # penalty of a name outside the axes, in square pixels


def label_points(axis: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write the name of each (x, y, name), 0..1, greedily where it overlaps others least.

    The figure has been drawn, which fixes the extent of the axes.
    """
    centres = axis.transData.transform([(x, y) for x, y, _ in points])
    taken = np.array([(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in centres])
    frame = np.array(axis.get_window_extent().extents)
    for (x, y, name), centre in zip(points, centres, strict=True):
        boxes = _boxes(axis, name, centre)
        costs = np.arange(len(OFFSETS)) + _overlaps(boxes, taken) + _outside(boxes, frame)
        # of equal costs argmin takes the first, hence the preferred one
        best = int(costs.argmin())
        _write(axis, (x, y), name, OFFSETS[best])
        taken = np.vstack([taken, boxes[best]])


def _boxes(axis: Any, name: str, centre: np.ndarray) -> np.ndarray:
    """(offsets, 4): left, bottom, right and top of the name and its line in pixels."""
    pixels = axis.figure.dpi / 72  # of a point
    trial = axis.text(0, 0, name, fontsize=SIZE)
    size = trial.get_window_extent(axis.figure.canvas.get_renderer()).size
    trial.remove()
    boxes = []
    for right, up, across, along in OFFSETS:
        corner = centre + np.array([right, up]) * pixels
        corner -= size * (SHARE[across], SHARE[along])
        box = np.concatenate([corner, corner + size])
        if _has_leader((right, up)):
            towards = corner + size / 2 - centre
            end = centre + towards / np.linalg.norm(towards) * LEADER["shrinkB"] * pixels
            box = np.concatenate([np.minimum(box[:2], end), np.maximum(box[2:], end)])
        boxes.append(box)
    return np.array(boxes)


def _has_leader(offset: tuple[int, int]) -> bool:
    return max(map(abs, offset)) > NEAR


def _write(
    axis: Any, at: tuple[float, float], name: str, offset: tuple[int, int, str, str]
) -> None:
    right, up, across, along = offset
    axis.annotate(
        name,
        at,
        (right, up),
        textcoords="offset points",
        ha=across,
        va=along,
        fontsize=SIZE,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],  # readable on lines
        annotation_clip=False,  # also for a point at the end of an axis
        arrowprops=LEADER if _has_leader((right, up)) else None,
    )


def _overlaps(boxes: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """(n, 4), (m, 4) -> (n,): area of each box in common with the taken ones, in square pixels."""
    low = np.maximum(boxes[:, None, :2], taken[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], taken[None, :, 2:])
    areas: np.ndarray = (high - low).clip(min=0).prod(axis=2).sum(axis=1)
    return areas


def _outside(boxes: np.ndarray, frame: np.ndarray) -> np.ndarray:
    inside = (boxes[:, :2] >= frame[:2]).all(axis=1) & (boxes[:, 2:] <= frame[2:]).all(axis=1)
    return np.where(inside, 0.0, OUTSIDE)
