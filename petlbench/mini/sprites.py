"""The sprites of the pre-training scenes: silhouettes from formulas."""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 40  # pixels of a stored sprite
VARIANTS = 4  # drawings of each class, slightly different
STROKES, GIELIS, FRACTALS = 160, 100, 80  # classes of each kind
FORMULA_SEED = 1234  # the classes do not depend on the seed of the scenes


@cache  # a run draws training scenes and held-out ones, and drawing the bank takes 2 s
def bank() -> tuple[Tensor, Tensor]:
    """(sprites (S, 1, SIDE, SIDE) in [0, 1], their classes (S,)); stroke characters are first."""
    random = torch.Generator().manual_seed(FORMULA_SEED)
    kinds = ((STROKES, stroke_character), (GIELIS, gielis), (FRACTALS, fractal))
    # one generator draws all classes: another count of one kind changes the kinds after it
    drawn = torch.cat([draw(random) for count, draw in kinds for _ in range(count)])
    classes = torch.arange(STROKES + GIELIS + FRACTALS).repeat_interleave(VARIANTS)
    return drawn[:, None], classes


def axes() -> tuple[Tensor, Tensor]:
    """Y and x (SIDE, SIDE) of the pixel centres, from -1 to 1."""
    line = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return y, x


def uniform(random: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers from low to high."""
    return torch.rand(shape, generator=random) * (high - low) + low


def paste(size: int, sprite: Tensor, place: Tensor, width: Tensor, turn: Tensor) -> Tensor:
    """Sprites (B, 1, s, s) on a canvas -> (B, 1, size, size).

    place: centres (B, 2) from -1 to 1. width: (B,), as a share of the canvas. turn: (B,), radians.
    """
    # affine_grid takes the map from canvas to sprite, the inverse of turn, width and place
    cos, sin = turn.cos() / width, turn.sin() / width
    x, y = place.unbind(-1)
    first = torch.stack([cos, sin, -(cos * x + sin * y)], -1)
    second = torch.stack([-sin, cos, sin * x - cos * y], -1)
    shape = [len(sprite), 1, size, size]
    grid = F.affine_grid(torch.stack([first, second], 1), shape, align_corners=False)
    return F.grid_sample(sprite, grid, align_corners=False)


def stroke_character(random: torch.Generator) -> Tensor:
    """Two to four quadratic Bezier strokes between points of a grid, with a round pen.

    (VARIANTS, SIDE, SIDE): the control points and the pen's width differ a little.
    """
    strokes = int(torch.randint(2, 5, (), generator=random))
    knots = torch.randint(0, 16, (strokes, 3), generator=random)
    for stroke in range(1, strokes):  # most strokes begin at an end of an earlier one
        if torch.rand((), generator=random) < 0.7:
            end = int(torch.randint(0, 2, (), generator=random)) * 2
            knots[stroke, 0] = knots[int(torch.randint(0, stroke, (), generator=random)), end]
        # never a dot: the last knot differs from the first
        knots[stroke, 2] = (knots[stroke, 0] + 1 + knots[stroke, 2] % 15) % 16
    grid = torch.stack([knots % 4, knots // 4], -1) / 3 * 1.5 - 0.75
    straight = uniform(random, strokes, 1) < 0.5
    grid[:, 1] = torch.where(straight, (grid[:, 0] + grid[:, 2]) / 2, grid[:, 1])
    points = grid + 0.05 * torch.randn(VARIANTS, *grid.shape, generator=random)
    t = torch.linspace(0, 1, 24)[:, None]
    p, q, r = (points[:, :, k, None] for k in range(3))
    # (VARIANTS, points, 2)
    curve = ((1 - t) ** 2 * p + 2 * t * (1 - t) * q + t**2 * r).flatten(1, 2)
    y, x = axes()
    away = (y[None, None] - curve[..., 1, None, None]) ** 2
    # (VARIANTS, SIDE, SIDE): distance to the nearest point of a curve
    away = (away + (x[None, None] - curve[..., 0, None, None]) ** 2).amin(1).sqrt()
    pen = uniform(random, VARIANTS, 1, 1, low=0.07, high=0.17)
    # SIDE / 2 pixels a unit: the edge is a ramp of one pixel
    return ((pen - away) * SIDE / 2 + 0.5).clamp(0, 1)


def gielis(random: torch.Generator) -> Tensor:
    """A superformula r(p) = (|cos(m p / 4)|^n2 + |sin(m p / 4)|^n3)^(-1 / n1), filled or ring.

    Gielis, American Journal of Botany 90, 2003. (VARIANTS, SIDE, SIDE)
    """
    m = int(torch.randint(1, 9, (), generator=random))
    n1 = uniform(random, 1, low=0.4, high=4.0)
    n23 = uniform(random, 2, low=0.5, high=5.0)
    squeeze = uniform(random, 1, low=0.45)
    ring = bool(torch.rand((), generator=random) < 0.3)
    jitter = 1 + 0.08 * torch.randn(VARIANTS, 4, 1, 1, generator=random)  # n2, n3, n1, height
    y, x = axes()
    y = 1.1 * y / (squeeze * jitter[:, 3])
    x = 1.1 * x.expand_as(y)

    def radius(angle: Tensor) -> Tensor:
        cos, sin = (m * angle / 4).cos().abs(), (m * angle / 4).sin().abs()
        total = cos ** (n23[0] * jitter[:, 0]) + sin ** (n23[1] * jitter[:, 1]) + 1e-6
        return total ** (-1 / (n1 * jitter[:, 2]))

    around = torch.linspace(-math.pi, math.pi, 721).view(1, 1, -1)
    # relative to the largest radius, from 1 to about 9, so that every class fits the square
    edge = radius(torch.atan2(y, x)) / radius(around).amax((1, 2), keepdim=True)
    centre = torch.hypot(x, y)
    filled = ((edge - centre) * SIDE * 0.35 + 0.5).clamp(0, 1)
    hole = ((0.45 * edge - centre) * SIDE * 0.35 + 0.5).clamp(0, 1)
    return filled * (1 - hole) if ring else filled


def fractal(random: torch.Generator) -> Tensor:
    """The attractor of two to five affine contractions; drawn again if it is too thin.

    (VARIANTS, SIDE, SIDE)
    """
    while True:
        drawn = _attractors(random)
        if ((drawn > 0.3).float().mean((1, 2)) > 0.1).all():
            return drawn


def _attractors(random: torch.Generator, walkers: int = 300, steps: int = 20) -> Tensor:
    maps = int(torch.randint(2, 6, (), generator=random))
    angles = uniform(random, 2, maps, high=2 * math.pi)
    stretch = uniform(random, maps, 2, low=0.25, high=0.85)
    turn = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1)
    turn = turn.view(2, maps, 2, 2)
    # (maps, 2, 2) from singular values below 1: every map contracts
    linear = turn[0] @ torch.diag_embed(stretch) @ turn[1]
    shift = uniform(random, maps, 2, low=-1.0)
    # a map is drawn by the area it fills, as in FractalDB, arXiv 2101.08515
    weight = torch.linalg.det(linear).abs() + 0.05
    drawings = []
    for _ in range(VARIANTS):
        own = linear * (1 + 0.06 * torch.randn(linear.shape, generator=random))
        points, visited = uniform(random, walkers, 2, low=-1.0), []
        for step in range(2 * steps):
            which = torch.multinomial(weight, walkers, replacement=True, generator=random)
            points = (own[which] @ points[..., None])[..., 0] + shift[which]
            # the first steps lead from random places to the attractor
            if step >= steps:
                visited.append(points)
        drawings.append(_histogram(torch.cat(visited)))
    return torch.stack(drawings)


def _histogram(points: Tensor) -> Tensor:
    # (n, 2) -> (SIDE, SIDE) in [0, 1]; quantiles, as a few far points would shrink the rest
    low, high = points.quantile(0.005, 0), points.quantile(0.995, 0)
    scaled = (points - (low + high) / 2) / (high - low).max().clamp(min=1e-3) * 0.96 + 0.5
    cells = (scaled * SIDE).long()
    inside = ((cells >= 0) & (cells < SIDE)).all(1)
    flat = cells[inside, 1] * SIDE + cells[inside, 0]
    return (torch.bincount(flat, minlength=SIDE * SIDE).view(SIDE, SIDE) / 2.5).clamp(max=1)
