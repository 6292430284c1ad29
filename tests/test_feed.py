"""Batches: the right images in the right order, augmented alike by any number of processes."""

import os
import pickle
import random
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from petlbench import interrupts
from petlbench.config.job_nodes import DataConfig
from petlbench.data.augment import Augmentation, Drawn, _operations
from petlbench.data.feed import Feed, ahead
from petlbench.data.images import View
from petlbench.data.preparation import Preparation
from petlbench.data.task import Split, fingerprint, held_out
from petlbench.errors import UserError
from tests.settings import augment

VIEW = View(size=16, interpolation="bicubic", resize=None, aspect="squash")
MEAN, STD = [0.5, 0.4, 0.3], [0.5, 0.25, 0.2]
PLACES = [torch.tensor([2, 0, 2]), torch.tensor([1]), torch.tensor([2, 1])]


def split() -> Split:
    pixels = torch.randint(0, 256, (3, 3, 20, 24), dtype=torch.uint8)
    labels = torch.tensor([5, 6, 7])
    return Split(pixels, labels, fingerprint(pixels, labels, "test"))


def feed(augmented: bool = False, workers: int = 0, seed: int = 0) -> Feed:
    return Feed(
        device=torch.device("cpu"),
        prepare=Preparation(VIEW, mean=MEAN, std=STD),
        augmentation=Augmentation(augment(erase=0.25), VIEW, mean=MEAN) if augmented else None,
        workers=workers,
        seed=seed,
    )


def drawn(found: Feed, images: Split) -> list[Tensor]:
    random.seed(3)  # of random erasing
    torch.manual_seed(3)
    return [batch for batch, _ in found.training(images, PLACES)]


def test_plain_batches_are_the_images_prepared() -> None:
    images, found = split(), feed()
    prepared = found.prepare(images.images)
    for batches in (found.plain(images, PLACES), found.training(images, PLACES)):
        for places, (batch, labels) in zip(PLACES, batches, strict=True):
            assert torch.equal(batch, prepared[places])
            assert torch.equal(labels, places + 5)


def test_a_set_that_does_not_fit_streams_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images, found = split(), feed()
    expected = list(found.plain(images, PLACES))
    monkeypatch.setattr(Feed, "_fits", lambda self, images: False)
    for (one, label), (other, same) in zip(expected, found.plain(images, PLACES), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(label, same)


def test_evaluation_takes_each_image_once_in_order() -> None:
    images, found = split(), feed()
    parts = list(found.in_order(images, 2))
    assert torch.equal(torch.cat([labels for _, labels in parts]), images.labels)
    assert torch.equal(torch.cat([part for part, _ in parts]), found.prepare(images.images))


def test_augmented_images_do_not_depend_on_the_number_of_processes() -> None:
    images = split()
    alone, again = drawn(feed(True), images), drawn(feed(True, workers=2), images)
    other = drawn(feed(True, seed=1), images)
    assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))
    assert not torch.equal(alone[0], other[0])
    assert not torch.equal(alone[0][0], alone[0][2])  # the same image, drawn twice
    assert [len(batch) for batch in alone] == [3, 1, 2]


def test_making_images_leaves_the_random_state_alone() -> None:
    found, images = feed(True), split()
    torch.manual_seed(0)
    random.seed(0)
    before = torch.rand(1), random.random(), np.random.random()  # noqa: NPY002
    torch.manual_seed(0)
    random.seed(0)
    found.augmentation.erase = 0.0  # type: ignore[union-attr]
    list(found.training(images, PLACES))
    assert (torch.rand(1), random.random()) == before[:2]


def test_erasing_fills_with_noise() -> None:
    erasing = Augmentation(augment(erase=1.0), VIEW, mean=MEAN)
    random.seed(0)
    torch.manual_seed(0)
    changed = erasing.erased(torch.zeros(4, 3, 16, 16))
    share = (changed != 0).float().mean((1, 2, 3))
    assert ((share > 0.01) & (share < 0.4)).all()  # timm: 2 to 33 % of the area


def test_an_original_is_augmented_and_not_what_was_made_of_it() -> None:
    small = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    labels = torch.zeros(2, dtype=torch.int64)
    white = Image.new("RGB", (64, 48), (255, 255, 255))
    images = Split(small, labels, fingerprint(small, labels, "x"), lambda place: white)
    plain = augment(auto_augment=None)
    found = feed()
    found.augmentation = Augmentation(plain, VIEW, mean=MEAN)
    [(batch, _)] = found.training(images, [torch.tensor([0, 1])])
    assert torch.allclose(batch, found.prepare(torch.full_like(small, 255)))


def test_parts_of_a_split_keep_their_originals() -> None:
    labels = torch.zeros(10, dtype=torch.int64)
    pixels = torch.zeros(10, 3, 4, 4, dtype=torch.uint8)
    kinds = [Image.new("RGB", (1, 1), (place, 0, 0)) for place in range(10)]
    first, second = held_out(
        Split(pixels, labels, fingerprint(pixels, labels, "x"), kinds.__getitem__)
    )
    assert [second.original(place).getpixel((0, 0)) for place in range(2)] == [
        (4, 0, 0),
        (9, 0, 0),
    ]
    assert first.original(4).getpixel((0, 0)) == (5, 0, 0)
    # as processes that are not forked get it
    assert pickle.loads(pickle.dumps(second)).original(1).getpixel((0, 0)) == (9, 0, 0)


def test_without_a_crop_the_whole_image_is_resized() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8))
    still: dict[str, Any] = {"scale": None, "ratio": None, "hflip": 0.0, "auto_augment": None}
    for interpolation in ("bicubic", "bilinear"):
        values = augment(**still | {"interpolation": interpolation})
        found = torch.as_tensor(Augmentation(values, VIEW, mean=MEAN).transform(image))
        view = View(size=16, interpolation=interpolation, resize=None, aspect="squash")
        assert torch.equal(found, torch.from_numpy(view.of(image).copy()).permute(2, 0, 1))
    flipped = Augmentation(augment(**still | {"hflip": 1.0}), VIEW, mean=MEAN).transform(image)
    whole = torch.from_numpy(VIEW.of(image).copy()).permute(2, 0, 1)
    assert torch.equal(torch.as_tensor(flipped), whole.flip(2))


POSTERIZING = [
    "rand-m9-mstd0.5-inc1",  # of all published recipes with a policy
    "rand-m10-n4-mmax15-inc1",
    "v0",
    "v0r",
    "original",
    "originalr",
    "3a",
    "augmix-m9-mstd0.5",
]


def posterizing(policy: str) -> list[Any]:
    """The posterising operations of a policy."""
    transform = Augmentation(augment(auto_augment=policy), VIEW, mean=MEAN).transform
    return [
        operation
        for operation in _operations(transform.transforms)
        if "Posterize" in operation.name
    ]


@pytest.mark.parametrize("policy", POSTERIZING[:6])
def test_no_bit_posterizes_to_black_whatever_the_version_of_pillow(policy: str) -> None:
    """As Pillow before version 13 did with its mask, which is 0 for 0 bits and fewer."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    image = Image.fromarray(pixels)
    operations = posterizing(policy)
    assert operations
    for operation in operations:
        for bits in (-2, 0, 1, 4, 7, 8):
            mask = ~(2 ** (8 - bits) - 1) & 255
            assert np.array_equal(operation.aug_fn(image, bits), pixels & mask)


def test_the_strongest_posterizing_of_a_recipe_is_black() -> None:
    """At magnitude 10, which mstd0.5 reaches from 9."""
    [operation] = posterizing("rand-m9-mstd0.5-inc1")
    operation.prob, operation.magnitude, operation.magnitude_std = 1.0, 10, 0.0
    assert not np.asarray(operation(Image.new("RGB", (4, 4), (255, 9, 80)))).any()


def test_recipes_have_no_policy_that_the_tests_do_not_draw() -> None:
    folder = Path(__file__).parent.parent / "results" / "published" / "recipes"
    text = "".join(path.read_text() for path in sorted(folder.iterdir()))
    assert set(re.findall(r"auto_augment: ([^,}\s]+)", text)) - {"null"} == {POSTERIZING[0]}


@pytest.mark.slow
@pytest.mark.parametrize("policy", POSTERIZING)
def test_many_augmented_images_are_drawn(policy: str) -> None:
    """Rare draws too: posterising to 0 bits comes about once in 600 images of a recipe."""
    pixels = torch.randint(1, 256, (3, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([5, 6, 7])
    images = Split(pixels, labels, fingerprint(pixels, labels, "test"))
    drawn = Drawn(images, Augmentation(augment(auto_augment=policy), VIEW, mean=MEAN), seed=0)
    for number in range(50_000):
        image, _ = drawn[number, number % 3]
        assert image.dtype == torch.uint8
        assert image.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"auto_augment": "random"}, "input.augment.auto_augment is random"),
        ({"auto_augment": "rand-m9-inc"}, "timm would ignore 'inc', which has no number"),
        ({"auto_augment": "original-mstd"}, "timm would ignore 'mstd', which has no number"),
        ({"scale": [3]}, r"input.augment.scale is \[3\]"),
        ({"hflip": 2.0}, "input.augment.hflip is 2.0"),
        ({"interpolation": "cubic"}, "unknown input.augment.interpolation 'cubic'"),
    ],
)
def test_a_wrong_augmentation_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Augmentation(augment(**changed), VIEW, mean=MEAN)


def test_ahead_keeps_the_order_and_hands_errors_on() -> None:
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]

    def failing() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    stream = ahead(failing())
    assert next(stream) == 1
    with pytest.raises(OSError, match="gone"):
        next(stream)


def test_workers_are_a_number_or_auto() -> None:
    assert feed(workers=3).workers == 3
    with pytest.raises(UserError, match=r"data\.workers is -1"):
        DataConfig(root="data", workers=-1)


def test_a_signal_to_all_processes_is_one_line(tmp_path: Path) -> None:
    """SIGTERM, as `timeout` and Slurm send it; in a process of its own, since handlers stay."""
    child = os.fork()
    if child == 0:
        interrupted(tmp_path / "stderr")
    _, status = os.waitpid(child, 0)
    told = (tmp_path / "stderr").read_text()
    assert (os.waitstatus_to_exitcode(status), told) == (143, f"{interrupts.LINE}\n")


def interrupted(stderr: Path) -> NoReturn:
    """Train a step, get the signal, end as a command does."""
    code = 1
    os.setsid()
    sys.stderr = stderr.open("w", buffering=1)
    sys.unraisablehook = sys.__unraisablehook__  # pytest has its own
    try:
        interrupts.hear()
        batches = feed(augmented=True, workers=1).training(split(), PLACES * 50)
        next(batches)
        try:
            os.killpg(0, signal.SIGTERM)
        except KeyboardInterrupt:
            batches.close()  # type: ignore[attr-defined]  # a generator; it waits for the worker
            code = interrupts.end()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
