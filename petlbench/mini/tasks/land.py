"""Land cover seen from above: ten classes that differ in texture and layout, not in colour."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from petlbench.mini.render import SIZE, Array, Canvas, Colour, Draw, Point

HALF = SIZE / 2
REACH = 36  # half a side of a square that covers the canvas at any angle


class Site:
    """A piece of land: its canvas, ground colour and the direction of its layout."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.ground = np.clip(np.array([0.5, 0.48, 0.34]) + draw.colour(-0.3, 0.3), 0, 1)
        self.canvas = Canvas(self.ground)
        angle = draw.uniform(0, math.pi)
        self.cos, self.sin = math.cos(angle), math.sin(angle)

    def shade(self, spread: float) -> Colour:
        """A colour near the ground's."""
        light, tint = self.draw.bell(spread), self.draw.colour(-0.4, 0.4) * spread
        return np.clip(self.ground + light + tint, 0, 1)

    def at(self, u: float, v: float) -> Point:
        """Canvas point of layout coordinates around the centre."""
        return HALF + self.cos * u - self.sin * v, HALF + self.sin * u + self.cos * v

    def box(self, u: float, v: float, width: float, height: float, colour: Colour) -> None:
        corners = ((0, 0), (width, 0), (width, height), (0, height))
        self.canvas.polygon([self.at(u + a, v + b) for a, b in corners], colour)

    def between(self, low: float, high: float) -> float:
        return self.draw.uniform(low, high)

    def wave(self, v: float, bend: float, length: float, phase: float) -> list[Point]:
        steps = range(-REACH, REACH + 1, 3)
        return [self.at(u, v + bend * math.sin(u / length + phase)) for u in steps]

    def lattice(self, step: float) -> Iterator[Point]:
        offset_u, offset_v = self.draw.uniform(0, step), self.draw.uniform(0, step)
        for u in np.arange(-REACH, REACH, step):
            for v in np.arange(-REACH, REACH, step):
                yield float(u) + offset_u, float(v) + offset_v

    def scatter(self, count: int, low: float, high: float, spread: float) -> None:
        """Round crowns of random size and place."""
        for _ in range(count):
            x, y = self.draw.uniform(0, SIZE), self.draw.uniform(0, SIZE)
            self.canvas.disc(x, y, self.draw.uniform(low, high), self.shade(spread))


def fields(site: Site) -> None:
    width, height = site.between(10, 18), site.between(14, 26)
    for u in np.arange(-REACH, REACH, width):
        for v in np.arange(-REACH, REACH, height):
            site.box(u, v, width - 1, height - 1, site.shade(0.12))


def forest(site: Site) -> None:
    site.scatter(150, 1.6, 3.4, 0.1)


def orchard(site: Site) -> None:
    step = site.between(5, 8)
    colour = site.shade(0.16)
    for u, v in site.lattice(step):
        x, y = site.at(u + site.draw.bell(0.4), v + site.draw.bell(0.4))
        site.canvas.disc(x, y, step * site.between(0.26, 0.34), colour)


def dunes(site: Site) -> None:
    step, phase = site.between(4, 7), site.between(0, 6)
    for k, v in enumerate(np.arange(-REACH, REACH, step)):
        points = site.wave(v, site.between(1.5, 2.5), 6, phase + 0.7 * k)
        site.canvas.line(points, step * 0.45, site.shade(0.1))


def river(site: Site) -> None:
    site.scatter(35, 0.8, 1.6, 0.1)
    points = site.wave(
        site.draw.bell(6), site.between(3, 8), site.between(7, 12), site.between(0, 6)
    )
    site.canvas.line(points, site.between(4, 9), site.shade(0.2))


def houses(site: Site) -> None:
    step = site.between(8, 12)
    for u, v in site.lattice(step):
        if site.draw.chance(0.8):
            width, height = (site.between(0.4, 0.75) * step for _ in "uv")
            left, top = u + site.draw.bell(0.8), v + site.draw.bell(0.8)
            site.box(left, top, width, height, site.shade(0.2))


def roads(site: Site) -> None:
    site.scatter(35, 0.8, 1.6, 0.1)
    colour = site.shade(0.2)
    for _ in range(site.draw.whole(2, 3)):
        angle = site.between(0, math.pi)
        x, y = HALF + site.draw.bell(8), HALF + site.draw.bell(8)
        dx, dy = 80 * math.cos(angle), 80 * math.sin(angle)
        site.canvas.line([(x - dx, y - dy), (x + dx, y + dy)], site.between(2, 4), colour)


def scrub(site: Site) -> None:
    site.scatter(30, 1.0, 2.4, 0.12)


def coast(site: Site) -> None:
    site.scatter(35, 0.8, 1.6, 0.1)
    edge = site.wave(
        site.draw.bell(7), site.between(1.5, 5), site.between(4, 9), site.between(0, 6)
    )
    corners = site.at(REACH, REACH * 2), site.at(-REACH, REACH * 2)
    site.canvas.outline([*edge, *corners], site.shade(0.2))


def ploughland(site: Site) -> None:
    step = site.between(2.6, 4.5)
    colour = site.shade(0.12)
    for v in np.arange(-REACH, REACH, step):
        site.canvas.line([site.at(-REACH, v), site.at(REACH, v)], step * 0.4, colour)


COVERS: tuple[Callable[[Site], None], ...] = (
    fields,
    forest,
    orchard,
    dunes,
    river,
    houses,
    roads,
    scrub,
    coast,
    ploughland,
)
CLASSES = len(COVERS)


def image(draw: Draw, index: int) -> tuple[NDArray[np.uint8], int]:
    """One cover, hazy and noisy."""
    label = index % CLASSES
    site = Site(draw)
    COVERS[label](site)
    site.canvas.blur(draw.uniform(0, 1.5))
    haze: Array = site.canvas.pixels
    site.canvas.pixels = site.ground + (haze - site.ground) * draw.uniform(0.45, 1)
    return site.canvas.finished(draw, draw.uniform(0.03, 0.09)), label
