"""A small rasteriser in float64: shapes with smooth edges on a 48 px canvas.

All random numbers of the tasks come from `Draw`: whole and uniform numbers of PCG64, so that
images do not depend on the machine or on the implementation of NumPy's other distributions.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

SIZE = 48
Array = NDArray[np.float64]
Point = tuple[float, float]
Colour = Array  # (3,), each from 0 to 1


class Draw:
    """The random numbers of one image; they depend only on task, seed and index."""

    def __init__(self, task: str, seed: int, index: int) -> None:
        # crc32, as Python salts hash() of a text in each process
        entropy = np.random.SeedSequence([crc32(task.encode()), seed, index])
        self.source = np.random.Generator(np.random.PCG64(entropy))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A uniform number from low to high."""
        return low + (high - low) * float(self.source.random())

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self.source.integers(low, high + 1))

    def bell(self, spread: float) -> float:
        """A sum of four uniform numbers: nearly normal, with standard deviation `spread`."""
        # four uniform numbers sum to 2 on average, with variance 4 / 12
        return spread * math.sqrt(3) * float(self.source.random(4).sum() - 2)

    def chance(self, share: float) -> bool:
        """True with a probability."""
        return bool(self.source.random() < share)

    def colour(self, low: float = 0.0, high: float = 1.0) -> Colour:
        """Three uniform numbers from low to high."""
        return low + (high - low) * self.source.random(3)

    def contrasting(self, ground: Colour, least: float) -> Colour:
        """A colour whose differences from the ground sum to at least `least` (at most 1)."""
        while True:
            colour = self.colour()
            if np.abs(colour - ground).sum() >= least:
                return colour


class Canvas:
    """Pixels (SIZE, SIZE, 3) from 0 to 1; coordinates in pixels, x to the right and y down."""

    def __init__(self, ground: Colour) -> None:
        self.pixels: Array = np.empty((SIZE, SIZE, 3))
        self.pixels[:] = ground

    def gradient(self, first: Colour, second: Colour, angle: float) -> None:
        """Fill the canvas from one colour to another along a direction in radians."""
        y, x = grid(0, SIZE, 0, SIZE)
        # 1.42 > sqrt(2), the diagonal: no corner is beyond either colour
        along = (math.cos(angle) * (x / SIZE - 0.5) + math.sin(angle) * (y / SIZE - 0.5)) / 1.42
        self.pixels = first + (second - first) * (along + 0.5)[..., None]

    def paint(self, cover: Array, colour: Colour, top: int = 0, left: int = 0) -> None:
        """Blend in a colour by its cover (h, w) from 0 to 1, from row `top` and column `left`."""
        part = self.pixels[top : top + cover.shape[0], left : left + cover.shape[1]]
        part += cover[..., None] * (colour - part)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, angle: float = 0.0
    ) -> None:
        """An ellipse with radii rx and ry, rotated by an angle in radians."""
        reach = max(rx, ry) + 1
        if (box := window(x - reach, x + reach, y - reach, y + reach)) is None:
            return
        rows, columns = grid(*box)
        cos, sin = math.cos(angle), math.sin(angle)
        u = cos * (columns - x) + sin * (rows - y)
        v = -sin * (columns - x) + cos * (rows - y)
        # distance to the edge to first order, (f - 1) / |grad f|, with f = level
        level = np.sqrt((u / rx) ** 2 + (v / ry) ** 2)
        steepness = np.sqrt((u / rx**2) ** 2 + (v / ry**2) ** 2) + 1e-9
        self.paint(edge(level * (level - 1) / steepness), colour, box[0], box[2])

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A filled circle."""
        self.ellipse(x, y, radius, radius, colour)

    def polygon(self, points: Sequence[Point] | Array, colour: Colour) -> None:
        """A filled convex polygon."""
        corners = np.asarray(points, dtype=np.float64)
        if (box := around(corners, 1)) is None:
            return
        rows, columns = grid(*box)
        following = np.roll(corners, -1, axis=0)
        (dx, dy), (x, y) = (following - corners).T, corners.T
        # the sign of the area, so that corners may be listed either way round
        turn = math.copysign(1.0, float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()))
        length = np.sqrt(dx * dx + dy * dy) + 1e-9
        nx, ny = (turn * dy / length)[:, None, None], (-turn * dx / length)[:, None, None]
        # (n, h, w), distance to the line through each edge; inside, all are negative
        outside = nx * (columns - x[:, None, None]) + ny * (rows - y[:, None, None])
        self.paint(edge(outside.max(0)), colour, box[0], box[2])

    def outline(self, points: Sequence[Point] | Array, colour: Colour) -> None:
        """A filled polygon of any shape without crossings, by the even-odd rule."""
        self.paint(filled(np.asarray(points, dtype=np.float64)), colour)

    def line(self, points: Sequence[Point] | Array, width: float, colour: Colour) -> None:
        """A polyline with a round pen."""
        knots = np.asarray(points, dtype=np.float64)
        if (box := around(knots, width / 2 + 1)) is None:
            return
        rows, columns = grid(*box)
        distance = np.full(rows.shape, np.inf)
        for (x0, y0), (x1, y1) in pairwise(knots):
            dx, dy = x1 - x0, y1 - y0
            share = ((columns - x0) * dx + (rows - y0) * dy) / (dx * dx + dy * dy + 1e-12)
            share = np.clip(share, 0, 1)
            away = np.hypot(columns - x0 - share * dx, rows - y0 - share * dy)
            distance = np.minimum(distance, away)
        self.paint(edge(distance - width / 2), colour, box[0], box[2])

    def blur(self, radius: float) -> None:
        """Three passes of the kernel (1, 2, 1) / 4, each blended in by radius / 3, at most 1."""
        for _ in range(3):
            for axis in (0, 1):
                pads = [(1, 1) if axis == other else (0, 0) for other in range(3)]
                padded = np.pad(self.pixels, pads, mode="edge")
                low, high = (np.take(padded, range(k, k + SIZE), axis) for k in (0, 2))
                smooth = (low + 2 * self.pixels + high) / 4
                self.pixels += (smooth - self.pixels) * min(radius / 3, 1)

    def finished(self, draw: Draw, noise: float) -> NDArray[np.uint8]:
        """(SIZE, SIZE, 3) uint8 with triangular noise of this standard deviation."""
        # two uniform numbers: variance 1 / 6
        grain = draw.source.random((2, SIZE, SIZE, 3)).sum(0) - 1
        noisy = np.clip(self.pixels + noise * math.sqrt(6) * grain, 0, 1)
        pixels: NDArray[np.uint8] = np.floor(noisy * 255 + 0.5).astype(np.uint8)
        return pixels


def edge(distance: Array) -> Array:
    """Signed distance to an edge (negative inside) -> cover, with a ramp one pixel wide."""
    return np.clip(0.5 - distance, 0, 1)


def grid(top: int, bottom: int, left: int, right: int) -> tuple[Array, Array]:
    """(y, x) of the pixel centres of a window."""
    rows = np.arange(top, bottom, dtype=np.float64)[:, None] + 0.5
    columns = np.arange(left, right, dtype=np.float64)[None] + 0.5
    y, x = np.broadcast_arrays(rows, columns)
    return y, x


def window(
    left: float, right: float, top: float, bottom: float
) -> tuple[int, int, int, int] | None:
    """(top, bottom, left, right) of the pixels in a box, or None outside the canvas."""
    rows = max(math.floor(top), 0), min(math.ceil(bottom), SIZE)
    columns = max(math.floor(left), 0), min(math.ceil(right), SIZE)
    return (*rows, *columns) if rows[0] < rows[1] and columns[0] < columns[1] else None


def around(points: Array, margin: float) -> tuple[int, int, int, int] | None:
    """The window around points (n, 2)."""
    (left, top), (right, bottom) = points.min(0) - margin, points.max(0) + margin
    return window(left, right, top, bottom)


def filled(corners: Array, samples: int = 4) -> Array:
    """Cover (SIZE, SIZE) of a polygon from samples x samples points in each pixel."""
    # sampled, since the maximum over edges is the distance of convex polygons only
    steps = (np.arange(SIZE * samples, dtype=np.float64) + 0.5) / samples
    inside = np.zeros((SIZE * samples, SIZE * samples), dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crossed = (y0 > steps) != (y1 > steps)
        at = x0 + (steps[crossed] - y0) * (x1 - x0) / (y1 - y0)
        # even-odd rule: inside if an odd number of edges lies to the right
        inside[crossed] ^= steps[None] < at[:, None]
    cover: Array = inside.reshape(SIZE, samples, SIZE, samples).mean((1, 3))
    return cover


def turned(points: Sequence[Point] | Array, angle: float, scale: float, centre: Point) -> Array:
    """Points (n, 2) scaled, turned (clockwise on the screen) and moved to a centre."""
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[cos, sin], [-sin, cos]])
    moved: Array = np.asarray(points, dtype=np.float64) @ rotation * scale + np.array(centre)
    return moved
