"""Images per second of evaluation input: decoded from files every time, or from the cache.

    python -m results.measured.decoding.measure > results/measured/decoding/decoding.json

Writes 2000 images of noise over a gradient of each kind, and times uint8 batches of 250 at 224 px:
PIL (open, RGB, bicubic resize, one process) against `Feed.pixels`, read one batch ahead as in
evaluation; normalisation is not included. The file of the pixel cache (`store` in decoding.json)
is in the page cache, as in a sweep.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.images import write
from petlbench.data import pixels
from petlbench.data.feed import Feed, ahead
from petlbench.data.images import View
from petlbench.data.preparation import Preparation
from petlbench.data.readers.lists import ImageList
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


def read_by_pil(images: ImageList) -> None:
    """Decode every image."""
    for start in range(0, IMAGES, BATCH):
        pixels = [VIEW.of(images.original(index)) for index in range(start, start + BATCH)]
        torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def read_cached(split: Split, feed: Feed) -> None:
    """Read every batch from the pixel cache."""
    for _ in ahead(feed.pixels(split, BATCH)):
        pass


def rate(action: Callable[[], None]) -> dict[str, float]:
    """Median images/s of the repeats, and their interquartile range."""
    rates = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        rates.append(IMAGES / (time.perf_counter() - start))
    low, middle, high = statistics.quantiles(rates, n=4)
    return {"images_per_s": round(middle, 1), "spread": round(high - low, 1)}


def measure(kind: str, cache: Path) -> dict[str, object]:
    """The rates of one kind of files."""
    width, height, suffix = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        images = write(Path(folder), IMAGES, (width, height), suffix)
        start = time.perf_counter()
        split = pixels.open_list(images, view=VIEW, cache=cache)
        build_s = time.perf_counter() - start
        pil, stored = rate(lambda: read_by_pil(images)), rate(lambda: read_cached(split, FEED))
    times = stored["images_per_s"] / pil["images_per_s"]
    return {
        "pil": pil,
        "store": stored,
        "times": round(times, 1),
        "build_images_per_s": round(IMAGES / build_s, 1),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        kinds = {kind: measure(kind, Path(cache)) for kind in KINDS}
    device = provenance.device_name(torch.device("cpu"))
    about = {
        "device": device,
        "versions": provenance.versions(),
        "images": IMAGES,
        "repeats": REPEATS,
    }
    print(json.dumps(about | {"kinds": kinds}, indent=1))
