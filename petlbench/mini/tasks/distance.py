"""Distance: how far the nearest of one to five objects is, in six bins of depth."""

import numpy as np
from numpy.typing import NDArray

from petlbench.mini.render import Draw
from petlbench.mini.tasks.solids import FARTHEST, NEAREST, place, render_scene

LAST = 7.4  # largest depth of the nearest object
CLASSES = 6


def image(draw: Draw, index: int) -> tuple[NDArray[np.uint8], int]:
    """A scene whose nearest object lies in its bin."""
    label = index % CLASSES
    step = (LAST - NEAREST) / CLASSES
    nearest = NEAREST + step * (label + draw.uniform())
    others = [draw.uniform(nearest, FARTHEST) for _ in range(draw.whole(0, 4))]
    return render_scene(draw, place(draw, [nearest, *others])).finished(draw, 0.02), label
