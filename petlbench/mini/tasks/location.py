"""Location: the horizontal position of a toy, in 16 bins."""

import numpy as np
from numpy.typing import NDArray

from petlbench.mini.render import SIZE, Draw
from petlbench.mini.tasks.toys import TURN, render_toy

FIRST, SPAN = 0.2, 0.6  # shares of the width in which centres lie
CLASSES = 16


def image(draw: Draw, index: int) -> tuple[NDArray[np.uint8], int]:
    """A toy at a random height and angle."""
    label = index % CLASSES
    x = (FIRST + SPAN * (label + draw.uniform()) / CLASSES) * SIZE
    y, angle = draw.uniform(0.28, 0.72) * SIZE, draw.uniform(0, TURN)
    return render_toy(draw, x, y, angle), label
