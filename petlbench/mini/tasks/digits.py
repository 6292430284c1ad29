"""Digits: real 8 x 8 scans of handwriting (UCI, bundled with scikit-learn), on coloured paper."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from petlbench.errors import UserError
from petlbench.mini.render import SIZE, Array, Canvas, Draw, grid

CLASSES = 10
IMAGES = 1797


@cache
def scans() -> tuple[Array, NDArray[np.int64]]:
    """(ink (N, 10, 10) from 0 to 1 with an empty border, labels (N,)), in a fixed random order."""
    from sklearn.datasets import load_digits  # takes a second, and a listing renders nothing

    digits = load_digits()
    order = np.argsort(np.random.Generator(np.random.PCG64(1797)).random(IMAGES), kind="stable")
    ink = np.pad(digits.images[order] / 16, ((0, 0), (1, 1), (1, 1)))
    return ink, digits.target[order].astype(np.int64)


def image(draw: Draw, index: int) -> tuple[NDArray[np.uint8], int]:
    """A scan, bilinearly enlarged, slightly rotated, in ink and paper of random colours."""
    if index >= IMAGES:
        raise UserError(f"mini/digits has {IMAGES} scans; set dataset.images to {IMAGES} or less")
    ink, labels = scans()
    paper = draw.colour()
    canvas = Canvas(paper)
    canvas.gradient(paper, np.clip(paper + draw.colour(-0.3, 0.3), 0, 1), draw.uniform(0, 6.3))
    pixel = draw.uniform(3.2, 5.2)
    shift = max(SIZE - 8 * pixel, 0) / 2
    centre = [SIZE / 2 + draw.uniform(-shift, shift) for _ in range(2)]
    angle = draw.uniform(-0.3, 0.3)
    y, x = grid(0, SIZE, 0, SIZE)
    dx, dy = (x - centre[0]) / pixel, (y - centre[1]) / pixel
    cos, sin = np.cos(angle), np.sin(angle)
    cover = bilinear(ink[index], -sin * dx + cos * dy + 4.5, cos * dx + sin * dy + 4.5)
    canvas.paint(cover, draw.contrasting(paper, 0.8))
    return canvas.finished(draw, 0.05), int(labels[index])


def bilinear(values: Array, y: Array, x: Array) -> Array:
    """Values (10, 10) at points (h, w) in units of cells -> (h, w); the border is 0."""
    y, x = np.clip(y, 0, 8.999), np.clip(x, 0, 8.999)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = y - top, x - left
    upper = values[top, left] * (1 - right) + values[top, left + 1] * right
    lower = values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right
    mixed: Array = upper * (1 - down) + lower * down
    return mixed
