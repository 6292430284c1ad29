"""Procedural scenes for pre-training: a sprite and distractors on a texture, with labels.

All draws come from one torch.Generator on the device of the tensors, and every step is vectorised
over the batch, so one CPU core or GPU makes scenes as fast as training uses them. The tasks of the
embedded suite share no code with this module.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from petlbench.mini import sprites
from petlbench.mini.draws import Draws

SIZE = 48
PATCH = 8  # of vit_mini; `cover` has an entry a patch
TEXTURES = 20
DISTRACTORS = 7  # at most
# label kind -> number of classes
HEADS = {
    "sprite": sprites.STROKES + sprites.GIELIS + sprites.FRACTALS,
    "texture": TEXTURES,
    "count": DISTRACTORS + 1,
    "x": 8,
    "y": 8,
    "size": 6,
    "orientation": 12,
    "hue": 8,
    "texture_hue": 8,
}


@dataclass(frozen=True)
class Scenes:
    """A batch: images (B, 3, SIZE, SIZE) in [0, 1], labels: kind -> (B,), cover (B, patches, 2).

    cover: the shares of each patch that the sprite and the distractors cover.
    """

    images: Tensor
    labels: dict[str, Tensor]
    cover: Tensor


class Generator(Draws):
    """Draws batches of scenes from a seed."""

    def __init__(self, seed: int, device: torch.device) -> None:
        super().__init__(seed, device)
        bank, classes = sprites.bank()
        self.sprites = bank.to(device)
        round_shapes = (classes >= sprites.STROKES) & (classes < sprites.STROKES + sprites.GIELIS)
        self.shapes = torch.nonzero(round_shapes)[:, 0].to(device)
        # pixel centres from -1 to 1, as affine_grid has them with align_corners=False
        line = (torch.arange(SIZE, device=device) + 0.5) / SIZE * 2 - 1
        self.y, self.x = torch.meshgrid(line, line, indexing="ij")

    @torch.no_grad()
    def draw(self, batch: int, easy: float) -> Scenes:
        """`batch` scenes; each is easy, with a calm background, with probability `easy`."""
        calm = self.uniform(batch) < easy
        labels: dict[str, Tensor] = {}
        image, ground = self._background(batch, calm, labels)
        image, others = self._distractors(image, calm, labels)
        image, cover = self._sprite(image, ground, calm, labels)
        # without the part of the distractors that the sprite hides
        covers = torch.cat([cover, others * (1 - cover)], 1)
        patches = F.avg_pool2d(covers, PATCH).flatten(2).transpose(1, 2)  # (B, 36, 2)
        return Scenes(self._camera(image, calm), labels, patches)

    def _background(
        self, batch: int, calm: Tensor, labels: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """A texture between two colours of similar hue: (image, its first colour (B, 3))."""
        labels["texture"], pattern = self.texture(batch)
        hue, first = self.colour(batch)
        labels["texture_hue"] = _bins(hue, 0, 1, HEADS["texture_hue"])
        _, second = self.colour(batch, (hue + self.uniform(batch, low=-0.12, high=0.12)) % 1)
        strength = torch.where(calm, 0.5, 1.0)[:, None]
        change = ((second - first) * strength)[:, :, None, None]
        return first[:, :, None, None] + change * pattern[:, None], first

    def texture(self, batch: int) -> tuple[Tensor, Tensor]:
        """(family (B,), pattern (B, SIZE, SIZE) in (0, 1)): noise, gratings, a ramp, cells."""
        family = self.whole(TEXTURES, batch)
        angle = self.uniform(batch, 1, 1, high=math.pi)
        along = angle.cos() * self.x + angle.sin() * self.y
        across = -angle.sin() * self.x + angle.cos() * self.y
        pattern = torch.empty(batch, SIZE, SIZE, device=self.device)
        for members, draw in (
            (family < 10, self._noise),
            ((family >= 10) & (family < 18), self._grating),
            (family == 18, self._ramp),
            (family == 19, self._cells),
        ):
            at = torch.nonzero(members)[:, 0]
            pattern[at] = draw(family[at], angle[at], along[at], across[at])
        # equal mean and contrast for all families; 1e-3 for a pattern without contrast
        pattern = pattern - pattern.mean((1, 2), keepdim=True)
        pattern = pattern / (pattern.std((1, 2), keepdim=True) + 1e-3)
        return family, torch.sigmoid(pattern * self.uniform(batch, 1, 1, low=0.6, high=3))

    def _noise(self, family: Tensor, angle: Tensor, along: Tensor, across: Tensor) -> Tensor:
        """(n, SIZE, SIZE): noise |f|^-a of five slopes, isotropic or stretched four times."""
        slopes = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.6], device=self.device)
        slope = slopes[family % 5].view(-1, 1, 1)
        stretch = torch.where(family < 5, 1.0, 4.0).view(-1, 1, 1)
        fy = torch.fft.fftfreq(SIZE, device=self.device)[:, None]
        fx = torch.fft.rfftfreq(SIZE, device=self.device)[None]
        u = (angle.cos() * fx + angle.sin() * fy) * stretch
        v = -angle.sin() * fx + angle.cos() * fy
        # 1e-4: the constant term would be infinite
        amplitude = (u * u + v * v + 1e-4) ** (-slope / 2)
        # half of the spectrum, (n, SIZE, SIZE / 2 + 1): that of a real image is symmetric
        phases = torch.view_as_complex(self.normal(len(family), SIZE, SIZE // 2 + 1, 2))
        drawn: Tensor = torch.fft.irfft2(phases * amplitude, s=(SIZE, SIZE))
        return drawn

    def _grating(self, family: Tensor, angle: Tensor, along: Tensor, across: Tensor) -> Tensor:
        """(n, SIZE, SIZE): sine, square, plaid and ring waves, coarse or fine."""
        wave = ((family - 10) // 2).view(-1, 1, 1)
        count = len(family)
        per_unit = torch.where(family % 2 == 0, 3.0, 7.0).view(-1, 1, 1) * math.pi
        per_unit = per_unit * self.uniform(count, 1, 1, low=0.8, high=1.2)
        u = along + self.uniform(count, 1, 1, low=-1)
        v = across + self.uniform(count, 1, 1, low=-1)
        sine = torch.sin(torch.where(wave == 3, torch.hypot(u, v), u) * per_unit)
        plaid = sine * torch.sin(v * per_unit)
        return torch.where(wave == 1, sine.sign(), torch.where(wave == 2, plaid, sine))

    def _ramp(self, family: Tensor, angle: Tensor, along: Tensor, across: Tensor) -> Tensor:
        # (n, SIZE, SIZE)
        return along * self.uniform(len(family), 1, 1, low=0.2)

    def _cells(self, family: Tensor, angle: Tensor, along: Tensor, across: Tensor) -> Tensor:
        """(n, SIZE, SIZE): distance to the nearest of 14 points."""
        seeds = self.uniform(len(family), 14, 2, 1, 1, low=-1.1, high=1.1)
        # (n, 14, SIZE, SIZE)
        squared = (self.x - seeds[:, :, 0]) ** 2 + (self.y - seeds[:, :, 1]) ** 2
        return squared.amin(1).sqrt()

    def _distractors(
        self, image: Tensor, calm: Tensor, labels: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Zero to seven small shapes, in one colour or several: (image, cover (B, 1, H, W))."""
        batch = len(image)
        none = self.uniform(batch) < torch.where(calm, 0.5, 0.2)
        labels["count"] = torch.where(none, 0, self.whole(DISTRACTORS + 1, batch))
        place = self._apart(self.uniform(batch, DISTRACTORS, 2, low=-0.85, high=0.85))
        _, common = self.colour(batch)
        uniform_colour = self.uniform(batch, 1) < 0.5
        cover = torch.zeros(batch, 1, SIZE, SIZE, device=self.device)
        for number in range(DISTRACTORS):
            at = torch.nonzero(labels["count"] > number)[:, 0]
            if not len(at):  # affine_grid refuses an empty batch
                break
            shape = self.sprites[self.shapes[self.whole(len(self.shapes), len(at))]]
            width = self.uniform(len(at), low=0.17, high=0.30)
            turn = self.uniform(len(at), high=2 * math.pi)
            mask = sprites.paste(SIZE, shape, place[at, number], width, turn)
            colour = torch.where(uniform_colour[at], common[at], self.colour(len(at))[1])
            # in place: the background is a new tensor that only this method uses
            image[at] = image[at] * (1 - mask) + mask * colour[:, :, None, None]
            cover[at] = torch.maximum(cover[at], mask)
        return image, cover

    def _apart(self, place: Tensor) -> Tensor:
        """(B, n, 2) -> (B, n, 2): push points that are too close apart, three times."""
        for _ in range(3):
            gap = place[:, :, None] - place[:, None]
            length = gap.norm(dim=-1, keepdim=True) + 1e-3
            push = gap / length * torch.relu(0.42 - length) * 0.5
            place = (place + push.sum(2)).clamp(-0.88, 0.88)
        return place

    def _sprite(
        self, image: Tensor, ground: Tensor, calm: Tensor, labels: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The main sprite under a random similarity: (image, cover (B, 1, H, W))."""
        batch = len(image)
        labels["sprite"] = self.whole(HEADS["sprite"], batch)
        drawn = labels["sprite"] * sprites.VARIANTS + self.whole(sprites.VARIANTS, batch)
        large = self.uniform(batch)
        width = 0.36 + 0.58 * large
        labels["size"] = _bins(large, 0, 1, HEADS["size"])
        inside = (1 - width * 0.8).clamp(min=0.05)[:, None]
        place = self.uniform(batch, 2, low=-1) * inside  # for half of the draws below
        anywhere = self.uniform(batch, 2, low=-0.8, high=0.8)
        place = torch.where(self.uniform(batch, 2) < 0.5, place, anywhere)
        labels["x"], labels["y"] = (
            _bins(place[:, axis], -0.8, 0.8, HEADS[name]) for axis, name in enumerate("xy")
        )
        upright = self.uniform(batch, low=-0.35, high=0.35)
        turned = self.uniform(batch, low=-math.pi, high=math.pi)
        turn = torch.where(self.uniform(batch) < 0.6, upright, turned)
        labels["orientation"] = _bins(turn / (2 * math.pi) % 1, 0, 1, HEADS["orientation"])
        mask = sprites.paste(SIZE, self.sprites[drawn], place, width, turn)
        paint = self._paint(ground, calm, mask, labels)
        outlined = self.uniform(batch, 1, 1, 1) < 0.2
        border = (F.max_pool2d(mask, 3, 1, 1) - mask) * outlined
        return (image * (1 - mask) + mask * paint) * (1 - 0.8 * border), mask

    def _paint(
        self, ground: Tensor, calm: Tensor, mask: Tensor, labels: dict[str, Tensor]
    ) -> Tensor:
        """The sprite's colour (B, 3, H, W): it contrasts; 30 % are textured, a third is shaded."""
        batch = len(ground)
        hue, colour = self.colour(batch)
        # a sprite in the colour of the ground could not be seen
        close = (colour - ground).abs().sum(-1) < 0.5
        colour = torch.where(close[:, None], 1 - colour, colour)
        hue = torch.where(close, (hue + 0.5) % 1, hue)  # the hue of the inverted colour
        away = torch.where(ground.mean(-1, keepdim=True) < 0.5, 1.0, -1.0)
        contrasted = (ground + away * (0.35 + 0.3 * colour)).clamp(0, 1)
        faint = (colour - ground).mean(-1, keepdim=True).abs() < 0.4
        colour = torch.where(calm[:, None] & faint, contrasted, colour)
        labels["hue"] = _bins(hue, 0, 1, HEADS["hue"])
        textured = (self.uniform(batch, 1, 1, 1) < 0.3) * 0.5
        paint = colour[:, :, None, None] * (1 - textured * self.texture(batch)[1][:, None])
        return (paint * self._shading(mask)).clamp(0, 1)

    def _shading(self, mask: Tensor) -> Tensor:
        """(B, 1, H, W) -> factor of brightness: a third is lit from one side, the others are 1."""
        batch = len(mask)
        relief = F.avg_pool2d(F.avg_pool2d(mask, 7, 1, 3), 7, 1, 3)
        slope_y, slope_x = torch.gradient(relief, dim=(2, 3))
        light = self.uniform(batch, 1, 1, 1, high=2 * math.pi)
        slope = light.cos() * slope_x + light.sin() * slope_y
        lit = self.uniform(batch, 1, 1, 1) < 0.33
        return 1 + lit * (4 * slope).clamp(-0.6, 0.6)

    def _camera(self, image: Tensor, calm: Tensor) -> Tensor:
        """Change contrast and brightness, remove the colour of 15 %, add noise."""
        batch = len(image)
        image = (image - 0.5) * self.uniform(batch, 1, 1, 1, low=0.6, high=1.3) + 0.5
        image = image + self.uniform(batch, 1, 1, 1, low=-0.15, high=0.15)
        grey = self.uniform(batch, 1, 1, 1) < 0.15
        image = torch.where(grey, image.mean(1, keepdim=True), image)
        noise = self.uniform(batch, 1, 1, 1, high=0.06)
        noise = noise * torch.where(calm, 0.2, 1.0).view(-1, 1, 1, 1)
        return (image + self.normal(*image.shape) * noise).clamp(0, 1)


def _bins(value: Tensor, low: float, high: float, bins: int) -> Tensor:
    # (B,) -> (B,) int64; values beyond the ends count to the first and the last bin
    return ((value - low) / (high - low) * bins).long().clamp(0, bins - 1)
