"""VTAB-1K from a small archive made here: lists, decoding, the pixel cache, and defects."""

import shutil
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from petlbench.data import pixels
from petlbench.data.images import PUBLISHED, View, original
from petlbench.data.readers import lists, vtab
from petlbench.data.task import Task
from petlbench.errors import UserError

COUNTS = {"train800": 800, "val200": 200, "train800val200": 1000, "test": 30}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pets` in NOAH's layout: 8 px images, their brightness is their index."""
    root = tmp_path_factory.mktemp("data") / "vtab"
    for name, count in COUNTS.items():
        folder = root / "pets" / "images" / name
        folder.mkdir(parents=True)
        lines = []
        for number in range(count):
            Image.new("L", (9, 8), number % 250).save(folder / f"{number:06d}.png")
            lines.append(f"images/{name}/{number:06d}.png {number % 37}\n")
        (root / "pets" / f"{name}.txt").write_text("".join(lines))
    return root


def task(root: Path, cache: Path, **changed: Any) -> Task:
    options: dict[str, Any] = {
        "name": "oxford_iiit_pet",
        "title": "Pets",
        "suite": "vtab",
        "group": "natural",
        "classes": 37,
        "test_images": 30,
        "aliases": ["oxford_pet", "pets"],
        "view": view(4),
    }
    return vtab.load(**options | changed, root=str(root), cache=str(cache))


def view(size: int) -> View:
    return View(size=size, interpolation="bicubic", resize=None, aspect="squash")


def test_splits_are_the_lists_in_their_order(archive: Path, tmp_path: Path) -> None:
    pets = task(archive, tmp_path)  # its folder has an alias as its name
    for name, count in {"train": 800, "val": 200, "trainval": 1000, "test": 30}.items():
        split = pets.open(name)
        assert split.images.shape == (count, 3, 4, 4)
        assert split.images.dtype == torch.uint8
        assert split.labels.tolist() == [number % 37 for number in range(count)]
        assert split.images[:, 0, 0, 0].tolist() == [number % 250 for number in range(count)]
        assert split.fingerprint["images"] == count
        assert split.fingerprint["format"] == "png"


def test_a_split_is_decoded_once(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = task(archive, tmp_path).open("test")
    monkeypatch.setattr(pixels, "_decode", None)
    again = task(archive, tmp_path).open("test")
    assert torch.equal(first.images, again.images)
    assert first.fingerprint == again.fingerprint
    with pytest.raises(TypeError):  # another transform is another file
        task(archive, tmp_path, view=view(5)).open("test")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"cut")])
def test_a_damaged_cache_is_made_again(
    archive: Path, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    first = task(archive, tmp_path).open("test").images.clone()
    [pixels] = tmp_path.glob("vtab/*.u8")
    damage(pixels)
    assert torch.equal(task(archive, tmp_path).open("test").images, first)


def test_a_changed_image_is_decoded_again(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "vtab"
    shutil.copytree(archive, root)
    before = task(root, tmp_path / "cache").open("test").fingerprint
    Image.new("L", (9, 8), 255).save(root / "pets" / "images" / "test" / "000000.png")
    after = task(root, tmp_path / "cache").open("test")
    assert int(after.images[0].min()) == 255
    assert after.fingerprint["sha256"] != before["sha256"]


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def gradient() -> Image.Image:
    ramp = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(10, 12, 3)
    return Image.fromarray(ramp)


def exif_rotated(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(path.with_suffix(".png"), gradient(), exif=exif)


KINDS: dict[str, Callable[[Path], Path]] = {
    "rgb": lambda path: saved(path.with_suffix(".png"), gradient()),
    "jpeg": lambda path: saved(path.with_suffix(".jpg"), gradient()),
    "greyscale": lambda path: saved(path.with_suffix(".png"), gradient().convert("L")),
    "palette": lambda path: saved(path.with_suffix(".gif"), gradient().convert("P")),
    "cmyk": lambda path: saved(path.with_suffix(".jpg"), gradient().convert("CMYK")),
    "alpha": lambda path: saved(path.with_suffix(".png"), gradient().convert("RGBA")),
    "rotated by EXIF": exif_rotated,
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_decoded_as_by_the_authors_loader(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path / "image")
    expected = F.resize(Image.open(path).convert("RGB"), [7, 7], F.InterpolationMode.BICUBIC)
    assert np.array_equal(view(7).of(original(path, PUBLISHED)), np.asarray(expected))


def test_16_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    values = np.array([[0, 256 * 100], [256 * 200 + 255, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = view(2).of(original(tmp_path / "deep.png", PUBLISHED))
    assert pixels[..., 1].tolist() == [[0, 100], [200, 255]]


def test_lists_may_have_blanks_tabs_and_crlf(tmp_path: Path) -> None:
    file = tmp_path / "test.txt"
    file.write_bytes(b"\xef\xbb\xbfa b.jpg 3\r\nc.jpg  0\r\n\r\nd\te.jpg\t2\n")
    images = lists.read(file, classes=4, count=3)
    assert images.paths == ("a b.jpg", "c.jpg", "d\te.jpg")
    assert images.labels == (3, 0, 2)


def broken_image(folder: Path) -> None:
    (folder / "images" / "test" / "000007.png").write_bytes(b"\x89PNG no image")


def label_too_high(folder: Path) -> None:
    (folder / "test.txt").write_text("images/test/000000.png 37\n")


MISTAKES: list[tuple[Callable[[Path], Any], str]] = [
    (shutil.rmtree, r"vtab/oxford_iiit_pet has no folder .* \(nor oxford_pet, pets\)"),
    (lambda folder: (folder / "test.txt").unlink(), "test.txt' cannot be read: No such file"),
    (lambda folder: (folder / "test.txt").write_bytes(b"\xff\xfe\x00"), "it is not UTF-8 text"),
    (lambda folder: (folder / "test.txt").write_text("x.png\n"), "line 1 of .* is not a path and"),
    (lambda folder: (folder / "test.txt").write_text("x.png 3\n"), "lists 1 images, and .* 30"),
    (label_too_high, r"label 37; the task has 37 classes, labels 0 to 36"),
    (broken_image, r"000007.png' cannot be decoded"),
    (
        lambda folder: (folder / "images" / "test" / "000009.png").unlink(),
        "000009.png', which .* lists, is missing",
    ),
]


@pytest.mark.parametrize(("damage", "message"), MISTAKES)
def test_a_defect_is_reported_in_one_line(
    archive: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    root = tmp_path / "vtab"
    shutil.copytree(archive, root, ignore=shutil.ignore_patterns("train*", "val*"))
    damage(root / "pets")
    with pytest.raises(UserError, match=message) as caught:
        task(root, tmp_path / "cache").open("test")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("**/*.u8"))
    assert not list((tmp_path / "cache").glob("**/*.part"))


def test_a_full_disk_is_refused_before_it_is_full(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "SPARE", 2**60)
    with pytest.raises(UserError, match=r"takes 0.00 GB and .* set PETLBENCH_CACHE"):
        task(archive, tmp_path).open("test")


def sha256(places: tuple[Path, Path]) -> object:
    return task(*places).open("trainval").fingerprint["sha256"]


def test_several_processes_make_one_file(archive: Path, tmp_path: Path) -> None:
    with get_context("spawn").Pool(1) as pool:
        pool.apply(abs, [0])  # it has begun, which takes seconds, but not yet imported this file
        other = pool.apply_async(sha256, [(archive, tmp_path)])
        own = sha256((archive, tmp_path))
        assert other.get(timeout=120) == own
    assert len(list(tmp_path.glob("vtab/*.u8"))) == 1
