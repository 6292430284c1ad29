"""Images a second of evaluation input: decoded from files each time, or read from the store.

    python results/measured/decoding/measure.py > results/measured/decoding/decoding.json

Makes 2000 images of noise over a gradient of each kind, and times the input at 224 px up to uint8
batches of 250: PIL (open, RGB, bicubic resize, one process) against `Feed.pixels`, read one batch
ahead as in evaluation; normalisation comes on top of both. The store's file lies in the page
cache, as in a sweep.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from petlbench.data import pixels
from petlbench.data.feed import Feed, ahead
from petlbench.data.images import Preparation, View
from petlbench.data.readers.lists import Listed
from petlbench.data.task import Split
from petlbench.run import provenance

KINDS = {
    "32 px PNG": (32, 32, "png"),
    "256 px JPEG": (256, 256, "jpg"),
    "500 x 375 JPEG": (500, 375, "jpg"),
}
IMAGES, BATCH, REPEATS = 2000, 250, 5
VIEW = View(size=224, interpolation="bicubic", resize=None, aspect="squash")
FEED = Feed(
    device=torch.device("cpu"),
    prepare=Preparation(VIEW, mean=[0.5] * 3, std=[0.5] * 3),
    augmentation=None,
    workers=0,
    seed=0,
)


def made(folder: Path, width: int, height: int, suffix: str) -> Listed:
    """Images that compress about as photographs do."""
    draw = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.ones((height, 1, 3))
    for number in range(IMAGES):
        noise = draw.normal(0, 12, (height, width, 3))
        pixels = (ramp + number % 50 + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.{suffix}")
    paths = tuple(f"{number}.{suffix}" for number in range(IMAGES))
    return Listed(folder / "list.txt", folder, paths, (0,) * IMAGES)


def by_pil(listed: Listed) -> None:
    for start in range(0, IMAGES, BATCH):
        seen = [VIEW.of(listed.original(place)) for place in range(start, start + BATCH)]
        torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).contiguous()


def by_store(split: Split, feed: Feed) -> None:
    for _ in ahead(feed.pixels(split, BATCH)):
        pass


def rate(action: Callable[[], None]) -> dict[str, float]:
    """Median images/s of the repeats, and the middle half's width."""
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        action()
        found.append(IMAGES / (time.perf_counter() - begun))
    low, middle, high = statistics.quantiles(found, n=4)
    return {"images_per_s": round(middle, 1), "spread": round(high - low, 1)}


def measure(kind: str, cache: Path) -> dict[str, object]:
    width, height, suffix = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        listed = made(Path(folder), width, height, suffix)
        begun = time.perf_counter()
        split = pixels.opened(listed, view=VIEW, cache=cache)
        build_s = time.perf_counter() - begun
        pil, stored = rate(lambda: by_pil(listed)), rate(lambda: by_store(split, FEED))
    times = stored["images_per_s"] / pil["images_per_s"]
    return {
        "pil": pil,
        "store": stored,
        "times": round(times, 1),
        "build_images_per_s": round(IMAGES / build_s, 1),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        found = {kind: measure(kind, Path(cache)) for kind in KINDS}
    device = provenance.device_name(torch.device("cpu"))
    about = {
        "device": device,
        "versions": provenance.versions(),
        "images": IMAGES,
        "repeats": REPEATS,
    }
    print(json.dumps(about | {"kinds": found}, indent=1))
