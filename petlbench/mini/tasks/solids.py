"""Balls and boxes on a floor, seen in perspective: the scenes of `count` and `distance`."""

import math
from dataclasses import dataclass

import numpy as np

from petlbench.mini.render import SIZE, Canvas, Colour, Draw

NEAREST, FARTHEST = 3.2, 9.0  # depths of objects, in units of the floor
HEIGHT = 2.55  # of the camera above the floor
FOCAL = SIZE * 1.05
HORIZON = SIZE * 0.16


@dataclass(frozen=True)
class Solid:
    """An object on the floor: sideways and depth position, radius, kind, colour."""

    x: float
    depth: float
    radius: float
    ball: bool
    colour: Colour


def place(draw: Draw, depths: list[float]) -> list[Solid]:
    """Objects at the given depths that do not hide each other; fewer if not all fit."""
    placed: list[Solid] = []
    for depth in depths:
        for _ in range(60):
            radius = (0.35, 0.5)[draw.whole(0, 1)]
            x = draw.uniform(-0.4, 0.4) * depth
            if all(_apart(x, depth, radius, other) for other in placed):
                colour = draw.colour(0.15, 1)
                placed.append(Solid(x, depth, radius, draw.chance(0.5), colour))
                break
    return placed


def _apart(x: float, depth: float, radius: float, other: Solid) -> bool:
    """Whether two objects overlap little in the image and not at all on the floor."""
    angle = abs(x / depth - other.x / other.depth)
    seen = 0.62 * (radius / depth + other.radius / other.depth)
    return angle > seen and math.hypot(x - other.x, depth - other.depth) > radius + other.radius


def render_scene(draw: Draw, solids: list[Solid]) -> Canvas:
    """The scene: a floor that is brighter in front, objects from far to near, their shadows."""
    grey = draw.uniform(0.45, 0.75)
    canvas = Canvas(np.full(3, grey))
    canvas.gradient(np.full(3, grey * 0.75), np.full(3, grey * 1.12), math.pi / 2)
    for solid in sorted(solids, key=lambda solid: -solid.depth):
        scale = FOCAL / solid.depth
        x, radius = SIZE / 2 + solid.x * scale, solid.radius * scale
        floor = HORIZON + HEIGHT * scale
        shadow = np.full(3, grey * 0.55)
        canvas.ellipse(x + 0.2 * radius, floor, 1.15 * radius, 0.3 * radius, shadow)
        (_ball if solid.ball else _box)(canvas, x, floor - radius, radius, solid.colour)
    return canvas


def _ball(canvas: Canvas, x: float, y: float, radius: float, colour: Colour) -> None:
    for k in range(6):
        size = 1 - k / 6
        shift = radius * 0.3 * (1 - size)
        canvas.disc(x - shift, y - shift, radius * size, colour * (0.45 + 0.55 * k / 5))


def _box(canvas: Canvas, x: float, y: float, radius: float, colour: Colour) -> None:
    half, deep = radius * 0.85, radius * 0.4
    left, right, top, bottom = x - half, x + half - deep, y - half + deep, y + radius
    canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour * 0.75)
    lid = [(left, top), (left + deep, top - deep), (x + half, top - deep), (right, top)]
    canvas.polygon(lid, colour)
    side = [(right, top), (x + half, top - deep), (x + half, bottom - deep), (right, bottom)]
    canvas.polygon(side, colour * 0.5)
