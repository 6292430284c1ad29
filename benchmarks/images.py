"""Image files to measure with."""

from pathlib import Path

import numpy as np
from PIL import Image

from petlbench.data.readers.lists import ImageList


def write(folder: Path, count: int, size: tuple[int, int], suffix: str = "jpg") -> ImageList:
    """Files that compress about as well as photographs. size: width and height in pixels."""
    width, height = size
    draw = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.ones((height, 1, 3))
    for number in range(count):
        noise = draw.normal(0, 12, (height, width, 3))
        values = (ramp + number % 50 + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{number}.{suffix}")
    paths = tuple(f"{number}.{suffix}" for number in range(count))
    return ImageList(folder / "list.txt", folder, paths, (0,) * count)
