"""Pictures as data: a confusion matrix, and a sheet of images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Matrix:
    """counts (K, K): images of a row's class that were taken for a column's class.

    labels: the K classes. total: images of each row's class, also of columns left out.
    """

    name: str
    caption: str
    labels: Sequence[str]
    counts: NDArray[np.float64]
    total: NDArray[np.float64]


@dataclass(frozen=True)
class Tile:
    """An image (H, W, 3) uint8 with a text below it; None if it could not be read."""

    image: NDArray[np.uint8] | None
    text: str


@dataclass(frozen=True)
class Sheet:
    """Images side by side."""

    name: str
    caption: str
    tiles: Sequence[Tile]
