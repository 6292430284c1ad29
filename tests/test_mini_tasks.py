"""The embedded suite: its pixels equal the published ones, labels and cache are correct."""

import logging
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from petlbench.data.images import View
from petlbench.data.task import Task
from petlbench.errors import UserError
from petlbench.mini import suite
from petlbench.mini.render import SIZE, Array, Canvas, Draw
from petlbench.mini.tasks import (
    count,
    digits,
    distance,
    glyphs,
    location,
    orientation,
    solids,
    toys,
)
from petlbench.system import OWN_TEMPORARY
from tests.helpers import sampled

CONF = Path(__file__).parent.parent / "conf"
GROUPS = ("natural", "specialized", "structured")
BLACK, WHITE = np.zeros(3), np.ones(3)
MANY = suite.TRAIN + suite.VAL + 12  # the smallest task that has all splits
FEW = 40 + 10 + 12  # the splits of few_images, and a test of 12 images
SMALL: dict[str, Any] = {
    "name": "location",
    "title": "Location",
    "suite": "mini",
    "group": "structured",
    "classes": 16,
    "images": FEW,
    "seed": 7,
    "sha256": None,
    "view": View(size=48, interpolation="bicubic", resize=None, aspect="squash"),
}


def read(path: str) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{path}.yaml"), resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def settings(name: str) -> dict[str, Any]:
    """The values of a task: the suite's and its own."""
    return {**read("source/mini")["dataset"], **read(f"dataset/mini/{name}")}


def listed(group: str) -> list[str]:
    return [path.removeprefix("mini/") for path in read(f"dataset/mini/{group}")["suite"]]


TASKS = [name for group in GROUPS for name in listed(group)]


def small(folder: Path, **values: Any) -> Task:
    return suite.load(**SMALL | {"cache": str(folder)} | values)


def image_of(name: str) -> Callable[[Draw, int], tuple[NDArray[np.uint8], int]]:
    image: Callable[[Draw, int], tuple[NDArray[np.uint8], int]]
    image = import_module(f"petlbench.mini.tasks.{name}").image
    return image


# --- published images


def test_the_suite_is_eight_tasks_in_three_groups() -> None:
    assert read("dataset/mini")["suite"] == [f"mini/{group}" for group in GROUPS]
    files = {path.stem for path in (CONF / "dataset/mini").glob("*.yaml")}
    assert files == {*TASKS, *GROUPS}
    assert len(TASKS) == 8
    assert [settings(name)["group"] for group in GROUPS for name in listed(group)] == [
        group for group in GROUPS for _ in listed(group)
    ]
    assert len({settings(name)["title"] for name in TASKS}) == 8


@pytest.mark.parametrize("name", sampled(TASKS, ("digits", "location")))
def test_the_images_equal_the_published_ones(name: str) -> None:
    values = settings(name)
    pixels, labels = images = suite.render(name, values["images"], values["seed"])
    assert suite.digest(images) == values["sha256"]
    assert pixels.shape == (values["images"], 3, SIZE, SIZE)
    assert len({image.tobytes() for image in pixels}) == len(pixels)  # no image in two splits
    for part in ("train", "val", "test"):
        shares = np.bincount(labels[suite.SPLITS[part]], minlength=values["classes"])
        assert len(shares) == values["classes"]
        even = shares.sum() / values["classes"]
        # The classes of the scans are not balanced, the rendered ones are.
        assert np.abs(shares - even).max() < (0.6 * even if name == "digits" else 1)


@pytest.mark.parametrize("name", TASKS)
def test_an_image_depends_only_on_task_seed_and_index(name: str) -> None:
    pixels, labels = suite.render(name, 8, 7)
    alone, label = image_of(name)(Draw(name, 7, 6), 6)
    assert np.array_equal(pixels[6], alone.transpose(2, 0, 1))
    assert labels[6] == label
    assert not (suite.render(name, 8, 8)[0] == pixels).all((1, 2, 3)).any()


def test_tasks_do_not_share_random_numbers() -> None:
    first = [Draw(name, 7, index).uniform() for name in TASKS for index in range(3)]
    assert len(set(first)) == len(first)


# --- labels against geometry


class Calls(list[tuple[Any, ...]]):
    """Replaces a function of a task and keeps the arguments of its calls."""

    def __init__(self, task: ModuleType, name: str, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.function = getattr(task, name)
        patch.setattr(task, name, self)

    def __call__(self, draw: Draw, *arguments: Any) -> Any:
        self.append(arguments)
        return self.function(draw, *arguments)


def test_digits_are_the_scans_of_scikit_learn_each_once() -> None:
    ink, labels = digits.scans()
    real = load_digits()
    assert np.array_equal(ink.sum((1, 2)), ink[:, 1:-1, 1:-1].sum((1, 2)))
    assert table(ink[:, 1:-1, 1:-1], labels) == table(real.images / 16, real.target)


def table(images: Array, labels: NDArray[np.int64]) -> list[list[float]]:
    """Labelled images as rows, sorted."""
    return sorted(np.column_stack([labels, images.reshape(len(images), -1)]).tolist())


def test_no_two_glyphs_look_alike() -> None:
    covers = np.stack([canonical(strokes).ravel() for strokes in glyphs.ALPHABET])
    assert len(covers) == glyphs.CLASSES
    alike = np.corrcoef(covers) - np.eye(len(covers))
    assert alike.max() < 0.9


def canonical(strokes: list[glyphs.Stroke]) -> Array:
    canvas = Canvas(BLACK)
    for stroke in strokes:
        canvas.line(np.array(stroke) * 6 + (12, 6), 3, WHITE)
    return canvas.pixels[..., 0]


def test_count_is_the_number_of_visible_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(count, "render_scene", monkeypatch)
    labels = [count.image(Draw("count", 7, index), index)[1] for index in range(24)]
    for label, [objects] in zip(labels, calls, strict=True):
        assert len(objects) == count.FEWEST + label
        assert min(visible(objects, shown) for shown in objects) >= 3


def visible(objects: list[solids.Solid], shown: solids.Solid) -> int:
    """Number of pixels that change with the colour of one object."""
    whole, other = (
        solids.render_scene(
            Draw("count", 7, 0),
            [
                solids.Solid(o.x, o.depth, o.radius, o.ball, colour if o is shown else BLACK)
                for o in objects
            ],
        )
        for colour in (BLACK, WHITE)
    )
    return int((np.abs(whole.pixels - other.pixels).max(-1) > 0.2).sum())


def test_distance_is_the_bin_of_the_nearest_object(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(distance, "render_scene", monkeypatch)
    labels = [distance.image(Draw("distance", 7, index), index)[1] for index in range(60)]
    edges = np.linspace(solids.NEAREST, distance.LAST, distance.CLASSES + 1)
    nearest = [min(solid.depth for solid in objects) for [objects] in calls]
    assert (np.searchsorted(edges, nearest) - 1).tolist() == labels


def test_nearer_objects_look_larger_and_stand_lower() -> None:
    heights, sizes = [], []
    for depth in (3.5, 5.0, 8.0):
        solid = solids.Solid(0.0, depth, 0.5, True, np.array([1.0, 0.0, 0.0]))
        red = solids.render_scene(Draw("", 0, 0), [solid]).pixels @ (1.0, -1.0, 0.0) > 0.2
        heights.append(np.nonzero(red)[0].mean())
        sizes.append(red.sum())
    assert heights == sorted(heights, reverse=True)
    assert sizes == sorted(sizes, reverse=True)


def test_location_is_where_the_pixels_are_bright() -> None:
    seen, labels = [], []
    for index in range(160):
        pixels, label = location.image(Draw("location", 7, index), index)
        seen.append(centroid(pixels)[0])
        labels.append(label)
    middles = SIZE * (location.FIRST + location.SPAN * (np.array(labels) + 0.5) / 16)
    # The centroid of a toy lies up to 0.3 of its half length (6 to 12 px) beside its centre.
    assert np.abs(seen - middles).max() < 5
    assert np.corrcoef(seen, labels)[0, 1] > 0.97


def centroid(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """(x, y) of a toy in pixels."""
    rows, columns = np.nonzero(bright(pixels))
    return columns.mean() + 0.5, rows.mean() + 0.5


def bright(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels that are brighter than halfway between ground and toy."""
    grey = pixels.mean(-1)
    mask: NDArray[np.bool_] = grey > (np.median(grey) + np.percentile(grey, 99.5)) / 2
    return mask


def test_orientation_is_the_bin_of_the_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(orientation, "render_toy", monkeypatch)
    labels = [orientation.image(Draw("orientation", 7, index), index)[1] for index in range(64)]
    turns = [angle / toys.TURN * orientation.CLASSES for *_, angle in calls]
    assert [math.floor(turn + 0.5) for turn in turns] == labels


@pytest.mark.parametrize("index", range(8))
def test_a_toy_turns_with_its_angle(index: int) -> None:
    """A quarter turn of the angle is a quarter turn (clockwise) of the picture, and no other."""
    upright, turned = (
        bright(toys.render_toy(Draw("toy", 0, index), SIZE / 2, SIZE / 2, angle))
        for angle in (0.3, 0.3 + math.pi / 2)
    )
    wrong = [(np.rot90(upright, -quarters) != turned).mean() for quarters in range(4)]
    assert wrong[1] < 0.3 * min(wrong[0], *wrong[2:])


# --- the rasteriser


def area(paint: Callable[[Canvas], None]) -> float:
    canvas = Canvas(BLACK)
    paint(canvas)
    return float(canvas.pixels[..., 0].sum())


KITE = [(10.3, 8.2), (33.1, 12.7), (37.4, 30.9), (14.8, 38.5)]


def test_shapes_cover_their_area() -> None:
    corners = np.array(KITE)
    x, y = corners.T
    kite = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    assert area(lambda c: c.disc(20.2, 24.9, 9.3, WHITE)) == pytest.approx(
        math.pi * 9.3**2, rel=0.01
    )
    assert area(lambda c: c.ellipse(20.2, 24.9, 14, 7, WHITE, 0.7)) == pytest.approx(
        math.pi * 14 * 7, rel=0.01
    )
    assert area(lambda c: c.polygon(corners, WHITE)) == pytest.approx(kite, rel=0.01)
    assert area(lambda c: c.polygon(corners[::-1], WHITE)) == pytest.approx(kite, rel=0.01)
    assert area(lambda c: c.outline(corners, WHITE)) == pytest.approx(kite, rel=0.01)
    assert area(lambda c: c.line([(10, 20), (30, 35)], 3, WHITE)) == pytest.approx(
        25 * 3 + math.pi * 1.5**2, rel=0.02
    )


def test_shapes_outside_do_not_change_the_canvas() -> None:
    far = np.array(KITE) + 100
    assert area(lambda c: c.disc(-30, 20, 9, WHITE)) == 0
    assert area(lambda c: c.polygon(far, WHITE)) == 0
    assert area(lambda c: c.outline(far, WHITE)) == 0
    assert area(lambda c: c.line(far, 3, WHITE)) == 0
    whole = SIZE * SIZE
    assert area(lambda c: c.disc(SIZE / 2, SIZE / 2, 40, WHITE)) == pytest.approx(whole)


def test_blur_keeps_the_sum_and_spreads_it() -> None:
    canvas = Canvas(BLACK)
    canvas.disc(24, 24, 5, WHITE)
    before = canvas.pixels.copy()
    canvas.blur(1.5)
    assert canvas.pixels.sum() == pytest.approx(before.sum())
    assert (canvas.pixels**2).sum() < 0.9 * (before**2).sum()


def test_draws_have_their_bounds_and_spread() -> None:
    draw = Draw("any", 0, 0)
    assert {draw.whole(2, 4) for _ in range(200)} == {2, 3, 4}
    bells = np.array([draw.bell(0.5) for _ in range(4000)])
    assert bells.std() == pytest.approx(0.5, rel=0.05)
    assert abs(bells.mean()) < 0.03
    assert np.abs(draw.contrasting(np.full(3, 0.5), 0.9) - 0.5).sum() >= 0.9


# --- splits and cache


few = pytest.mark.usefixtures("few_images")


@cache
def expected() -> suite.Images:
    return suite.render(SMALL["name"], FEW, SMALL["seed"])


def assert_complete(task: Task) -> None:
    pixels, labels = expected()
    train, val, test = (task.open(name) for name in ("train", "val", "test"))
    assert [len(train), len(val), len(test)] == [suite.TRAIN, suite.VAL, 12]
    assert np.array_equal(np.concatenate([s.images.numpy() for s in (train, val, test)]), pixels)
    assert np.array_equal(np.concatenate([s.labels.numpy() for s in (train, val, test)]), labels)


def refuse(*_: Any) -> suite.Images:
    raise AssertionError("rendered again")


@few
def test_splits_follow_each_other_and_carry_fingerprints(tmp_path: Path) -> None:
    task = small(tmp_path)
    assert task.tests == ("test",)
    assert_complete(task)
    both = task.open("trainval")
    assert both.images[suite.TRAIN :].equal(task.open("val").images)
    assert both.fingerprint["images"] == suite.TRAIN + suite.VAL
    assert both.fingerprint["format"] == "rendered uint8 RGB 48 px"
    hashes = [task.open(name).fingerprint["sha256"] for name in ("train", "val", "trainval")]
    assert len(set(hashes)) == 3


@few
def test_loading_renders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "render", refuse)
    small(tmp_path)
    assert list(tmp_path.iterdir()) == []


@few
def test_the_second_use_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path).open("train")
    [_] = (tmp_path / "mini").iterdir()  # one file, no leftover
    monkeypatch.setattr(suite, "render", refuse)
    assert_complete(small(tmp_path))


@few
def test_seeds_and_sizes_do_not_share_a_file(tmp_path: Path) -> None:
    first = small(tmp_path).open("test")
    other = small(tmp_path, seed=8).open("test")
    longer = small(tmp_path, images=FEW + 4).open("test")
    assert not first.images.equal(other.images)
    assert len(longer) == len(first) + 4
    assert longer.images[: len(first)].equal(first.images)


@few
def test_a_damaged_cache_is_rebuilt(tmp_path: Path) -> None:
    small(tmp_path).open("val")
    [path] = (tmp_path / "mini").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "empty": b"",
        "cut": whole[: len(whole) - 100],
        "pixel": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "header": whole.replace(b"3, 48, 48)", b"3, 48, 48(", 1),
        "text": b"not a file of images",
    }
    for damage, content in damaged.items():
        path.write_bytes(content)
        assert_complete(small(tmp_path))
        assert path.read_bytes() == whole, damage


@few
def test_what_a_killed_process_left_in_the_cache_is_removed(tmp_path: Path) -> None:
    open_task = suite.load(**SMALL, cache=str(tmp_path)).open
    open_task("val")
    (tmp_path / "mini" / f"{OWN_TEMPORARY}cut").write_text("")
    suite.load(**SMALL, cache=str(tmp_path)).open("val")
    assert [path.suffix for path in (tmp_path / "mini").iterdir()] == [".npz"]


@few
def test_a_cache_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "petlbench"):
        assert_complete(small(blocked))
    [warning] = caplog.messages  # although three splits were opened
    assert str(blocked) in warning
    assert "\n" not in warning


@few
def test_other_images_than_the_published_ones_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "petlbench"):
        small(tmp_path, sha256=suite.digest(expected())).open("val")
        assert caplog.messages == []
        small(tmp_path / "other", sha256="0" * 64).open("val")
        small(tmp_path / "other", sha256="0" * 64).open("val")  # a second warning, from the cache
    assert len(caplog.messages) == 2
    assert all("mini/location" in message for message in caplog.messages)


def test_invalid_sizes_and_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images is 1000; it must be a whole number from 1001"):
        small(tmp_path, images=1000)
    with pytest.raises(UserError, match=r"dataset\.seed is -1"):
        small(tmp_path, images=MANY, seed=-1)
    with pytest.raises(UserError, match="has 1797 scans"):
        digits.image(Draw("digits", 7, digits.IMAGES), digits.IMAGES)


@pytest.mark.slow  # the pixel cache is written in the same way: test_vtab.py
def test_several_processes_may_write_the_cache(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        hashes = set(pool.map(built, [tmp_path] * 2))
    assert hashes == {small(tmp_path, images=MANY).open("test").fingerprint["sha256"]}
    [_] = (tmp_path / "mini").iterdir()


def built(folder: Path) -> object:
    return small(folder, images=MANY).open("test").fingerprint["sha256"]
