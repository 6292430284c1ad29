"""Flat toys with a marked front on a dark ground: the sprites of `location` and `orientation`."""

import math

import numpy as np
from numpy.typing import NDArray

from petlbench.mini.render import SIZE, Array, Canvas, Draw, turned

TURN = 2 * math.pi
ANGLES = np.linspace(0, TURN, 40, endpoint=False)
COS = [np.cos(k * ANGLES) for k in range(5)]
HEART = np.stack(
    [16 * np.sin(ANGLES) ** 3, -(13 * COS[1] - 5 * COS[2] - 2 * COS[3] - COS[4])], axis=1
)
SHAPES: tuple[Array, ...] = (
    np.array([(-0.85, -0.5), (0.85, -0.5), (0.85, 0.5), (-0.85, 0.5)]),
    np.stack([np.cos(ANGLES), 0.5 * np.sin(ANGLES)], 1),
    HEART / 17,
    np.array([(-0.8, -0.6), (0.9, 0), (-0.8, 0.6)]),
)
FRONT = 0.4  # of the dark mark, as a share of the toy's length


def render_toy(draw: Draw, x: float, y: float, angle: float) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 3) uint8: a random toy, turned by `angle`, centred at a point in pixels."""
    shape = SHAPES[draw.whole(0, len(SHAPES) - 1)]
    scale = draw.uniform(0.13, 0.26) * SIZE
    ground, light = np.full(3, draw.uniform(0, 0.3)), np.full(3, draw.uniform(0.55, 1))
    canvas = Canvas(ground)
    canvas.outline(turned(shape, angle, scale, (x, y)), light)
    [mark] = turned([(FRONT, 0)], angle, scale, (x, y))
    canvas.disc(mark[0], mark[1], max(0.2 * scale, 1.5), ground)
    return canvas.finished(draw, 0.03)
