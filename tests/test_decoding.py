"""Own images: what transparent pixels show, and the range of grey images of 16 bits."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from petlbench.commands import predictor
from petlbench.config import compose
from petlbench.data import configured
from petlbench.data.images import OWN, PUBLISHED, BadImage, grey_peak, grey_range, original
from petlbench.data.readers import tree
from petlbench.run.record import Store
from petlbench.run.training import run
from tests import trees

HIDDEN = (200, 30, 40)  # the colour below alpha 0


def rgba(path: Path, hidden: tuple[int, int, int]) -> Path:
    image = Image.new("RGBA", (4, 4), (*hidden, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    image.save(path)
    return path


def la(path: Path, hidden: tuple[int, int, int]) -> Path:
    Image.new("LA", (4, 4), (hidden[0], 0)).save(path)
    return path


def palette(path: Path, hidden: tuple[int, int, int]) -> Path:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*hidden, 0, 0, 255])
    image.putpixel((0, 0), 1)
    image.save(path, transparency=0)
    return path


def one_colour(path: Path, hidden: tuple[int, int, int]) -> Path:
    Image.new("RGB", (4, 4), hidden).save(path, transparency=hidden)
    return path


def one_grey(path: Path, hidden: tuple[int, int, int]) -> Path:
    Image.new("L", (4, 4), hidden[0]).save(path, transparency=hidden[0])
    return path


def deep_grey(path: Path, hidden: tuple[int, int, int]) -> Path:
    values = np.full((4, 4), 257 * hidden[0], np.uint16)
    Image.fromarray(values).save(path, transparency=257 * hidden[0])
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_blended_with_white(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    image = Image.new("RGBA", (4, 4), (*HIDDEN, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    image.save(path, lossless=True)
    pixels = np.asarray(original(path, OWN))
    assert pixels[2, 2].tolist() == [255] * 3
    assert pixels[0, 1].tolist() == [127] * 3  # half of white


@pytest.mark.parametrize("make", [rgba, la, palette, one_colour, one_grey, deep_grey])
def test_what_nobody_sees_decides_nothing(make: Callable[..., Path], tmp_path: Path) -> None:
    shown = [
        np.asarray(original(make(tmp_path / f"{n}.png", hidden), OWN))
        for n, hidden in enumerate([HIDDEN, (7, 8, 9)])
    ]
    assert np.array_equal(shown[0], shown[1])
    assert shown[0][3, 3].tolist() == [255] * 3
    as_published = original(make(tmp_path / "c.png", HIDDEN), PUBLISHED)
    assert as_published.getpixel((3, 3))[0] == HIDDEN[0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("peaks", "white"),
    [([], 65535), ([None, None], 65535), ([200], 255), ([256], 511), ([3000, 4095, None], 4095),
     ([4096], 8191), ([65535], 65535), ([0], 255)],
)  # fmt: skip
def test_white_is_the_highest_value_of_the_bits_in_use(peaks: Any, white: int) -> None:
    assert grey_range(peaks) == white


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".jp2"])
def test_grey_images_of_16_bits_are_scaled(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan{suffix}"
    values = np.array([[0, 1000], [2048, 4095]], dtype=np.uint16).repeat(16, 0).repeat(16, 1)
    Image.fromarray(values).save(path)
    peak = grey_peak(path.read_bytes())
    assert peak == 4095
    pixels = np.asarray(original(path, replace(OWN, grey_max=grey_range([peak]))))
    assert pixels[::16, ::16, 0].tolist() == [[0, 62], [128, 255]]
    brighter = replace(OWN, grey_max=2047)
    assert np.asarray(original(path, brighter))[31, 31].tolist() == [255] * 3  # not wrapped


def test_big_tiffs_have_a_range_and_images_of_32_bits_none(tmp_path: Path) -> None:
    """A file that is refused must not make the others dark."""
    values = np.full((4, 4), 4095, dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif", big_tiff=True)
    content = (tmp_path / "a.tif").read_bytes()
    assert content.startswith(b"II+")
    assert grey_peak(content) == 4095
    Image.fromarray(values.astype(np.int32) * 1000).save(tmp_path / "b.tif")
    assert grey_peak((tmp_path / "b.tif").read_bytes()) is None
    with pytest.raises(BadImage, match="the range of 32-bit pixels is unknown"):
        original(tmp_path / "b.tif", OWN)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_other_images_have_no_range(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    assert grey_peak((tmp_path / "a.png").read_bytes()) is None
    assert grey_peak(b"\x89PNG" + b"\0" * 20 + b"\x10\x00") is None  # damaged


def scans(root: Path) -> Path:
    """Two classes that differ in the lower 4 of 12 bits; one range for all splits."""
    for number in range(20):
        values = np.full((8, 8), 100 + 40 * (number % 2), np.uint16)
        values[0, 0] = 4000 if number == 0 else 0
        path = root / ["thin", "thick"][number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    return root


def test_the_range_is_of_all_splits_and_stated(tmp_path: Path) -> None:
    root = scans(tmp_path / "scans")
    tree.scan.cache_clear()
    settings = compose.single(
        [
            *("dataset=folder", f"dataset.root={root}", f"dataset.cache={tmp_path / 'cache'}"),
            *(f"results.root={tmp_path / 'runs'}", "device=cpu", "train.epochs=1"),
            *("train.batch_size=4", "train.schedule.warmup_epochs=0"),
        ]
    )
    task = configured.task(settings)
    for split in ("trainval", "test"):
        opened = task.open(split)
        assert opened.images[:, 0, 40, 40].unique().tolist() == [6, 9]
        assert opened.fingerprint["grey_max"] == 4095
        assert opened.original(0).getpixel((5, 5))[0] in (6, 9)  # type: ignore[index]
    record = run(settings)
    about = record["provenance"]["splits"]["test"]
    assert (about["grey_max"], about["background"], about["upright"]) == (4095, "white", True)
    file = Store(tmp_path / "runs").path(record, ".safetensors")
    with safe_open(file, framework="pt") as content:
        assert json.loads(content.metadata()["network"])["grey_max"] == 4095
    found = predictor.load(file, checkpoint=None, device="cpu")
    assert found.decoding == task.lists["test"]().decoding


def test_verify_notes_what_8_bits_of_rgb_cannot_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = scans(tmp_path / "scans")
    for name in ("thin", "thick"):
        rgba(root / name / "x.png", HIDDEN if name == "thin" else (1, 2, 3))
        Image.new("RGBA", (4, 4), (*HIDDEN, 255)).save(root / name / "opaque.png")
    tree.scan.cache_clear()
    _, report, _ = trees.data(capsys, "verify", "folder", "--root", root)
    notes = " ".join(report["tasks"][0]["notes"])
    assert "images with transparent pixels: they are shown on white" in notes
    assert "grey images of 16 bits: 0 to 4095 becomes 0 to 255" in notes
    counts = [int(note.split()[2]) for note in report["tasks"][0]["notes"] if "16 bits" in note]
    assert sum(counts) >= 20
