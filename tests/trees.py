"""Data sets of a few small images in the published layouts, and small tasks for them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from petlbench.commands.data.main import main
from petlbench.config import compose
from petlbench.config.schema import Config
from petlbench.data.readers import vtab

COUNTS = {"train": 8, "val": 4, "trainval": 12}
SMALL: Mapping[str, Mapping[str, Any]] = {
    "vtab": {"classes": 4, "test_images": 6},
    "fewshot": {"classes": 3, "val_images": 4, "test_images": 5},
    "dg": {"classes": 5, "shots": 2, "test_images": {"imagenet": 6, "a": 2}},
}


def shrink(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let every task expect the few images of SMALL, and set the folder of the cache."""
    real = compose.single

    def single(overrides: Iterable[str]) -> Config:
        config = real(overrides)
        reader = config.dataset.target
        small = replace(reader, values={**reader.values, **SMALL.get(config.dataset.suite, {})})
        return replace(config, dataset=replace(config.dataset, target=small))

    monkeypatch.setattr(compose, "single", single)
    monkeypatch.setattr(vtab, "COUNTS", COUNTS)
    monkeypatch.setenv("PETLBENCH_CACHE", str(cache))
    monkeypatch.delenv("PETLBENCH_DATA", raising=False)


def data(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    """`python -m petlbench.data ... --json`: its exit status, its report, its standard error."""
    capsys.readouterr()
    status = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else None, err


def paint(path: Path, value: int, size: tuple[int, int] = (6, 5)) -> None:
    """Save an image of one colour, which depends on the value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, value // 256, 7)).save(path)


def write(path: Path, labels: Mapping[str, int]) -> None:
    """Save a list of images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} {label}\n" for name, label in labels.items()))


def vtab_task(root: Path, name: str = "kitti") -> Path:
    """A folder of VTAB-1K: train800val200 has copies of the images of both parts."""
    parts = {"train800": (0, 8), "val200": (8, 4), "train800val200": (0, 12), "test": (12, 6)}
    for split, (first, count) in parts.items():
        names = [f"images/{split}/{number:06d}.png" for number in range(count)]
        write(root / name / f"{split}.txt", {each: i % 4 for i, each in enumerate(names)})
        for number, each in enumerate(names):
            paint(root / name / each, first + number)
    return root / name


def few_shot(root: Path, lists: str, images: str, shots: int = 2) -> None:
    """Three classes with all draws; names have blanks. lists, images: folders below the root."""
    held = {"val": (100, 4), "test": (200, 5)}
    for draw in range(3):
        file = root / lists / f"train_meta.list.num_shot_{shots}.seed_{draw}"
        write(file, {f"class {n % 3}/{draw}_{n}.png": n % 3 for n in range(3 * shots)})
        for number in range(3 * shots):
            paint(root / images / f"class {number % 3}/{draw}_{number}.png", 10 * draw + number)
    for which, (first, count) in held.items():
        names = [f"class {n % 3}/{first + n}.png" for n in range(count)]
        write(root / lists / f"{which}_meta.list", {each: n % 3 for n, each in enumerate(names)})
        for number, each in enumerate(names):
            paint(root / images / each, first + number)


def domains(lists: Path, images: Path) -> None:
    """A source of 5 classes and a test set with two of them; official folders of images."""
    for draw in range(3):
        train = {f"n{n % 5}/n{n % 5}_{draw}{n}.JPEG": n % 5 for n in range(10)}
        write(lists / f"imagenet/annotations/train_meta.list.num_shot_2.seed_{draw}", train)
        for place, each in enumerate(train):
            paint(images / "imagenet/images/train" / each, 20 * (10 * draw + place))
    val = {f"ILSVRC2012_val_0000000{n}.JPEG": n % 5 for n in range(6)}
    write(lists / "imagenet/annotations/val_meta.list", val)
    for place, each in enumerate(val):
        paint(images / "imagenet/images/val" / each, 20 * (100 + place))
    hard = {"imagenet-a/n1/a b (1).png": 1, "imagenet-a/n4/c.png": 4}
    write(lists / "imagenet-adversarial/annotations/val_meta.list", hard)
    for place, each in enumerate(hard):
        paint(images / each, 20 * (200 + place))
