"""Distance: how far the nearest of one to five objects is, in six bins of depth."""

import numpy as np
from numpy.typing import NDArray

from petlbench.mini.render import Draw
from petlbench.mini.tasks.solids import FARTHEST, NEAREST, drawn, place

LAST = 7.4  # farthest place of the nearest object
CLASSES = 6


def image(draw: Draw, index: int) -> tuple[NDArray[np.uint8], int]:
    """The nearest object lies in its bin, the others behind it."""
    label = index % CLASSES
    step = (LAST - NEAREST) / CLASSES
    nearest = NEAREST + step * (label + draw.uniform())
    others = [draw.uniform(nearest, FARTHEST) for _ in range(draw.whole(0, 4))]
    return drawn(draw, place(draw, [nearest, *others])).finished(draw, 0.02), label
