"""Input of training: images decoded by PIL in each epoch, or once by petlbench's pixel cache."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.images import write
from petlbench.data import pixels
from petlbench.data.feed import Feed
from petlbench.data.images import View
from petlbench.data.preparation import Preparation
from petlbench.data.readers.lists import ImageList

SIZE = 500, 375  # width and height of a JPEG photograph, as in Caltech101 or Pets


def compare(*, images: int, batch: int, size: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of an epoch of JPEG files by each form, and of the first epoch of petlbench."""
    view = View(size=size, interpolation="bicubic", resize=None, aspect="squash")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        listed = write(Path(folder), images, SIZE)
        feed = Feed(
            device=torch.device("cpu"),
            prepare=Preparation(view, mean=[0.5] * 3, std=[0.5] * 3),
            augmentation=None,
            workers=0,
            seed=0,
        )
        started = time.process_time()
        split = pixels.open_list(listed, view=view, cache=Path(cache))
        first = time.process_time() - started
        places = torch.arange(images).split(batch)
        seconds: dict[str, list[float]] = {"petlbench": [], "textbook": []}
        for _ in range(repeats):
            started = time.process_time()
            for _ in feed.training(split, places):
                pass
            turn = time.process_time()
            for part in places:
                decoded(listed, part.tolist(), size)
            seconds["petlbench"].append(turn - started)
            seconds["textbook"].append(time.process_time() - turn)
    return {"images": images, "file": "{} x {} JPEG".format(*SIZE), "first": first, **seconds}


def decoded(listed: ImageList, places: list[int], size: int) -> Tensor:
    """A batch as published loaders make it: Resize, ToTensor and Normalize of each file.

    (B, 3, size, size)
    """
    tensors = []
    for place in places:
        image = Image.open(listed.files[place]).convert("RGB")
        resized = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
        tensors.append((torch.tensor(resized).permute(2, 0, 1).float() / 255 - 0.5) / 0.5)
    return torch.stack(tensors)
