"""Orientation: the direction of a toy, in 16 bins of the full turn."""

import numpy as np
from numpy.typing import NDArray

from petlbench.mini.render import SIZE, Draw
from petlbench.mini.tasks.toys import TURN, render_toy

CLASSES = 16


def image(draw: Draw, index: int) -> tuple[NDArray[np.uint8], int]:
    """A toy at a random place; bins are centred on multiples of a sixteenth of a turn."""
    label = index % CLASSES
    angle = TURN * (label + draw.uniform(-0.5, 0.5)) / CLASSES
    x, y = (draw.uniform(0.28, 0.72) * SIZE for _ in "xy")
    return render_toy(draw, x, y, angle), label
