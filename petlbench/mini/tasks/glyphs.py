"""Glyphs: 26 letters of three scripts (Greek, Cyrillic, runes), written with a pen."""

import math

import numpy as np
from numpy.typing import NDArray

from petlbench.mini.render import SIZE, Array, Canvas, Draw, Point, turned

CLASSES = 26
Stroke = list[Point]


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> Stroke:
    """Part of an ellipse; angles in turns, 0 at the right, clockwise."""
    steps = 13
    angles = [2 * math.pi * (start + (end - start) * k / (steps - 1)) for k in range(steps)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


# Strokes on a field 4 wide and 6 high, y down.
ALPHABET: list[list[Stroke]] = [
    [[(0, 6), (0, 0), (4, 0)]],  # gamma
    [[(2, 0), (4, 6), (0, 6), (2, 0)]],  # delta
    [arc(2, 3, 2, 3, 0, 1), [(0.8, 3), (3.2, 3)]],  # theta
    [[(0, 6), (2, 0), (4, 6)]],  # lambda
    [[(0, 0), (4, 0)], [(0.6, 3), (3.4, 3)], [(0, 6), (4, 6)]],  # xi
    [[(0, 6), (0, 0), (4, 0), (4, 6)]],  # pi
    [[(4, 0), (0, 0), (2.4, 3), (0, 6), (4, 6)]],  # sigma
    [arc(2, 3, 2, 1.8, 0, 1), [(2, 0), (2, 6)]],  # phi
    [[(0, 0), (0, 2)], arc(2, 2, 2, 2, 0.5, 0), [(4, 0), (4, 2)], [(2, 0), (2, 6)]],  # psi
    [[(0, 6), (1.3, 6)], arc(2, 2.5, 2, 2.5, 0.3, 1.2), [(2.7, 6), (4, 6)]],  # omega
    [[(0, 0), (4, 6)], [(4, 0), (0, 6)], [(2, 0), (2, 6)]],  # zhe
    [[(0, 0), (0, 6), (4, 0), (4, 6)]],  # i
    [[(0, 0), (0, 2.5), (1, 3.4), (4, 3.2)], [(4, 0), (4, 6)]],  # che
    [arc(1.5, 3, 2.5, 3, -0.33, 0.33), [(1.5, 3), (4, 3)]],  # e
    [[(0, 0), (0, 6), (4, 6), (4, 0)], [(2, 0), (2, 6)]],  # sha
    [  # be
        [(4, 0), (0, 0), (0, 6), (2.4, 6)],
        arc(2.4, 4.4, 1.6, 1.6, -0.25, 0.25),
        [(0, 2.8), (2.4, 2.8)],
    ],
    [[(0, 0), (0, 6)], arc(2.6, 3, 1.4, 3, 0, 1), [(0, 3), (1.2, 3)]],  # yu
    [  # ya
        [(4, 6), (4, 0), (1.6, 0)],
        arc(1.6, 1.6, 1.5, 1.6, 0.25, 0.75),
        [(1.6, 3.2), (4, 3.2)],
        [(2, 3.2), (0, 6)],
    ],
    [[(0.5, 0), (0.5, 6)], [(0.5, 2.4), (4, 0.2)], [(0.5, 4.6), (4, 2.4)]],  # fehu
    [[(0.5, 0), (0.5, 6)], [(0.5, 1.4), (3.4, 3), (0.5, 4.6)]],  # thurisaz
    [[(0.4, 6), (0.4, 0), (3.4, 1.6), (0.4, 3.1), (3.8, 6)]],  # raido
    [[(3.4, 0), (0.4, 3), (3.4, 6)]],  # kaunan
    [[(2, 0), (2, 6)], [(0, 0), (2, 2.6), (4, 0)]],  # algiz
    [[(2, 0), (2, 6)], [(0, 2.2), (2, 0), (4, 2.2)]],  # tiwaz
    [[(0, 6), (4, 2.2), (2, 0), (0, 2.2), (4, 6)]],  # othala
    [[(0, 6), (0, 0), (4, 6), (4, 0), (0, 6)]],  # dagaz
]


def image(draw: Draw, index: int) -> tuple[NDArray[np.uint8], int]:
    """A glyph on a gradient with random lines; it is slanted, rotated and jittered."""
    label = index % CLASSES
    first, second = draw.colour(), draw.colour()
    canvas = Canvas(first)
    canvas.gradient(first, second, draw.uniform(0, 2 * math.pi))
    for _ in range(draw.whole(1, 4)):
        ends = [(draw.uniform(0, SIZE), draw.uniform(0, SIZE)) for _ in range(2)]
        canvas.line(ends, draw.uniform(0.6, 2.2), draw.colour())
    ink = draw.contrasting((first + second) / 2, 0.9)
    scale, pen = draw.uniform(3.4, 5.8), draw.uniform(1.3, 4.0)
    slant, stretch = draw.uniform(-0.25, 0.25), draw.uniform(0.75, 1.15)
    centre = SIZE / 2 + draw.bell(2.5), SIZE / 2 + draw.bell(2.5)
    angle = draw.uniform(-0.3, 0.3)
    for stroke in ALPHABET[label]:
        points: Array = np.array(stroke) - (2, 3)
        points = points + np.array([[draw.bell(0.07), draw.bell(0.07)] for _ in stroke])
        points = points * (stretch, 1) + slant * points[:, 1:] * (1, 0)
        canvas.line(turned(points, angle, scale, centre), pen, ink)
    return canvas.finished(draw, 0.04), label
