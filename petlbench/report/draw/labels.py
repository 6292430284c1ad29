"""Names beside the points of a chart, placed with the least overlap."""

from collections.abc import Sequence
from typing import Any

from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

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
NEAR = 6  # points; a line joins a more distant name to its point
LEADER = {"arrowstyle": "-", "linewidth": 0.4, "color": "#888888", "shrinkA": 0, "shrinkB": 2}
MARKER = 4  # pixels around a point that a name should not cover
OUTSIDE = 1e4  # penalty of a name outside the axes, in square pixels


def label_points(axis: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write the name of each (x, y, name), 0..1, greedily where it overlaps others least."""
    axis.figure.draw_without_rendering()  # fixes the extent of the axes
    centres = axis.transData.transform([(x, y) for x, y, _ in points])
    boxes = [_around(*centre) for centre in centres]
    for x, y, name in points:
        boxes.append(_place(axis, (x, y), name, boxes))


def _place(axis: Any, at: tuple[float, float], name: str, boxes: Sequence[Any]) -> Any:
    """Write one name at its best offset; the box of its text."""
    renderer, frame = axis.figure.canvas.get_renderer(), axis.get_window_extent()
    best: tuple[float, Any, Any] | None = None
    for preference, offset in enumerate(OFFSETS):
        if best is not None and best[0] <= preference:
            break  # no later offset can cost less
        text = _text(axis, at, name, offset)
        box = text.get_window_extent(renderer)
        cost = preference + sum(_overlap(box, other) for other in boxes) + _outside(box, frame)
        if best is None or cost < best[0]:
            if best is not None:
                best[1].remove()
            best = cost, text, box
        else:
            text.remove()
    assert best is not None  # OFFSETS is not empty
    return best[2]


def _text(axis: Any, at: tuple[float, float], name: str, offset: tuple[int, int, str, str]) -> Any:
    right, up, across, along = offset
    return axis.annotate(
        name,
        at,
        (right, up),
        textcoords="offset points",
        ha=across,
        va=along,
        fontsize=SIZE,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],  # readable on lines
        annotation_clip=False,  # also for a point at the end of an axis
        arrowprops=LEADER if max(abs(right), abs(up)) > NEAR else None,
    )


def _around(x: float, y: float) -> Bbox:
    return Bbox.from_extents(x - MARKER, y - MARKER, x + MARKER, y + MARKER)


def _overlap(first: Any, second: Any) -> float:
    """Common area of two boxes, in square pixels."""
    shared = Bbox.intersection(first, second)
    return float(shared.width * shared.height) if shared is not None else 0.0


def _outside(box: Any, frame: Any) -> float:
    inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0
    return 0.0 if inside and box.y1 <= frame.y1 else OUTSIDE
