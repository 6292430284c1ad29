"""Cells under the microscope: six classes by the form, variety and inner structure of nuclei."""

import math

import numpy as np
from numpy.typing import NDArray

from petlbench.mini.render import SIZE, Canvas, Draw

# (elongation of the nuclei, spread of their sizes, pale centre)
CLASSES_OF_NUCLEI = (
    (1.0, 0.08, False),
    (1.0, 0.45, False),
    (0.55, 0.08, False),
    (0.55, 0.45, False),
    (1.0, 0.08, True),
    (0.55, 0.08, True),
)
GROUND = ((0.78, 0.96), (0.58, 0.82), (0.74, 0.92))  # red, green, blue of the unstained field
CLASSES = len(CLASSES_OF_NUCLEI)


def image(draw: Draw, index: int) -> tuple[NDArray[np.uint8], int]:
    """A stained field of 12 to 30 cells, slightly out of focus."""
    label = index % CLASSES
    elongation, spread, pale = CLASSES_OF_NUCLEI[label]
    ground = np.array([draw.uniform(*ends) for ends in GROUND])
    stain = np.array([0.42, 0.24, 0.55]) + draw.colour(-0.1, 0.1)
    canvas = Canvas(ground)
    base = draw.uniform(2.2, 3.6)
    for _ in range(draw.whole(12, 30)):
        x, y = draw.uniform(0, SIZE), draw.uniform(0, SIZE)
        radius = base * math.exp(draw.bell(spread))
        long = math.sqrt(elongation * math.exp(draw.bell(0.12)))
        rx, ry, angle = radius / long, radius * long, draw.uniform(0, math.pi)
        canvas.ellipse(x, y, 1.6 * rx, 1.6 * ry, ground - 0.07, angle)
        canvas.ellipse(x, y, rx, ry, np.clip(stain + draw.bell(0.05), 0, 1), angle)
        if pale:
            canvas.ellipse(x, y, 0.45 * rx, 0.45 * ry, ground - 0.07, angle)
    canvas.blur(draw.uniform(0.3, 1.8))
    return canvas.finished(draw, draw.uniform(0.02, 0.06)), label
