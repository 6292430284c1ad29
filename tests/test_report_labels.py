"""Names beside the points of a chart."""

import itertools

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from petlbench.report.draw import labels

CROWD = [(0.3, 0.8), (0.31, 0.82), (0.33, 0.79), (0.35, 0.8), (0.36, 0.83), (0.3, 0.76)]
NAMES = ["LoRA", "AdaptFormer", "NOAH subnet", "VPT-Deep", "FacT-TK", "DTL+*"]


def labelled(
    points: list[tuple[float, float, str]],
) -> tuple[Figure, list[Bbox], list[np.ndarray]]:
    """A chart of 3 by 2.3 inches with these points, the boxes of its names, and its lines."""
    figure = Figure(figsize=(3, 2.3), dpi=150)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    labels.label_points(axis, points)
    boxes = [text.get_window_extent() for text in axis.texts]
    return figure, boxes, [axis.transData.transform(line.get_xydata()) for line in axis.lines]


def test_names_of_distant_points_stand_beside_them_without_a_line() -> None:
    points = [(0.2, 0.2, "LoRA"), (0.8, 0.3, "DTL"), (0.5, 0.7, "")]
    figure, boxes, lines = labelled(points)
    assert [text.get_text() for text in figure.axes[0].texts] == ["LoRA", "DTL"]
    assert len(boxes) == 2
    assert not lines


def test_names_of_a_crowd_cover_no_name_no_point_and_no_line() -> None:
    points = [(x, y, name) for (x, y), name in zip(CROWD, NAMES, strict=True)]
    figure, boxes, lines = labelled(points)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    centres = figure.axes[0].transData.transform(CROWD)
    assert not any(box.contains(*centre) for box in boxes for centre in centres)
    assert lines  # not all of them have a place beside their point
    places = np.linspace(0, 0.95, 50)[:, None]  # a line ends at its own name
    for start, end in lines:
        along = start + places * (end - start)
        assert not any(box.contains(x, y) for box in boxes for x, y in along)


def test_two_names_at_the_end_of_an_axis_are_near_their_points() -> None:
    # the values lie below the axis, so both points are on it, one right of the other
    figure, boxes, _ = labelled([(0.05, 0.0, "k-NN 52.8 ↓"), (0.07, 0.0, "VQT 47.0 ↓")])
    points = figure.axes[0].transData.transform([(0.05, 0.0), (0.07, 0.0)])
    nearest = [np.clip(at, box.min, box.max) for at, box in zip(points, boxes, strict=True)]
    assert np.linalg.norm(points - nearest, axis=1).max() < 30 * 150 / 72  # 30 points
    assert not boxes[0].overlaps(boxes[1])
