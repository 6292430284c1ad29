"""Names beside the points of a chart, each where it covers least."""

from collections.abc import Sequence
from typing import Any

from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

SIZE = 6.5  # points
OFFSETS = [  # in points from the middle of the marker; the earlier the better
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
NEAR = 6  # points; a name further off is joined to its point by a line
LEADER = {"arrowstyle": "-", "linewidth": 0.4, "color": "#888888", "shrinkA": 0, "shrinkB": 2}
MARKER = 4  # pixels around a point that a name should leave free
OUTSIDE = 1e4  # what leaving the axes costs, in square pixels


def label_points(axis: Any, named: Sequence[tuple[float, float, str]]) -> None:
    """Write each name at x, y (0..1), greedily where it overlaps points and names least."""
    axis.figure.draw_without_rendering()  # settles where the axes are
    renderer, frame = axis.figure.canvas.get_renderer(), axis.get_window_extent()
    middles = axis.transData.transform([(x, y) for x, y, _ in named])
    taken = [_around(*middle) for middle in middles]
    for x, y, name in named:
        best: tuple[float, Any, Any] | None = None
        for place, (right, up, across, along) in enumerate(OFFSETS):
            text = axis.annotate(
                name,
                (x, y),
                (right, up),
                textcoords="offset points",
                ha=across,
                va=along,
                fontsize=SIZE,
                path_effects=[withStroke(linewidth=1.5, foreground="white")],
                annotation_clip=False,
                arrowprops=LEADER if max(abs(right), abs(up)) > NEAR else None,
            )
            box = text.get_window_extent(renderer)
            cost = place + sum(_common(box, other) for other in taken) + _beyond(box, frame)
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = cost, text, box
            else:
                text.remove()
        assert best is not None
        taken.append(best[2])


def _around(x: float, y: float) -> Bbox:
    return Bbox.from_extents(x - MARKER, y - MARKER, x + MARKER, y + MARKER)


def _common(first: Any, second: Any) -> float:
    """Area that two boxes share, in square pixels."""
    shared = Bbox.intersection(first, second)
    return float(shared.width * shared.height) if shared is not None else 0.0


def _beyond(box: Any, frame: Any) -> float:
    inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0
    return 0.0 if inside and box.y1 <= frame.y1 else OUTSIDE
