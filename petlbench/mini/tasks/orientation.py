"""Orientation: which way a toy points, in 16 bins of the full turn."""

import numpy as np
from numpy.typing import NDArray

from petlbench.mini.render import SIZE, Draw
from petlbench.mini.tasks.toys import TURN, drawn

CLASSES = 16


def image(draw: Draw, index: int) -> tuple[NDArray[np.uint8], int]:
    """Bins are centred on multiples of a sixteenth of a turn; the place is free."""
    label = index % CLASSES
    angle = TURN * (label + draw.uniform(-0.5, 0.5)) / CLASSES
    x, y = (draw.uniform(0.28, 0.72) * SIZE for _ in "xy")
    return drawn(draw, x, y, angle), label
