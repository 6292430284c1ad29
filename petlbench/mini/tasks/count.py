"""Count: how many objects stand on the floor, two to seven."""

import numpy as np
from numpy.typing import NDArray

from petlbench.mini.render import Draw
from petlbench.mini.tasks.solids import FARTHEST, NEAREST, place, render_scene

FEWEST = 2
CLASSES = 6


def image(draw: Draw, index: int) -> tuple[NDArray[np.uint8], int]:
    """A scene, drawn again until all objects fit."""
    label = index % CLASSES
    while True:
        depths = [draw.uniform(NEAREST, FARTHEST) for _ in range(label + FEWEST)]
        solids = place(draw, depths)
        if len(solids) == len(depths):
            return render_scene(draw, solids).finished(draw, 0.02), label
