"""Few-shot, domain generalisation and a user's own images, from small data sets made here."""

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F

from petlbench.config import compose, resolvers
from petlbench.config.schema import Config
from petlbench.data import configured, pixels
from petlbench.data.images import OWN, PUBLISHED, View, original
from petlbench.data.readers import dg, fewshot, folder, image_files, remarks, tree
from petlbench.data.task import Task
from petlbench.errors import UserError
from petlbench.run import build, single, splits
from petlbench.run.identity import identity
from petlbench.run.record import Store
from petlbench.run.training import run
from petlbench.sweep.launchers.basic import Basic
from petlbench.sweep.perform import perform
from petlbench.sweep.plan import TO_RUN, Planned
from petlbench.system import OWN_TEMPORARY
from tests.trees import paint, write

VIEW = View(size=4, interpolation="bicubic", resize=None, aspect="squash")


# --- how a file becomes pixels


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (17, 17)])
@pytest.mark.parametrize("aspect", ["squash", "keep"])
def test_resizing_and_cropping_equal_torchvisions(size: tuple[int, int], aspect: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    view = View(size=16, interpolation="bicubic", resize=20, aspect=aspect)
    sides = [20, 20] if aspect == "squash" else [20]
    expected = F.center_crop(F.resize(image, sides, F.InterpolationMode.BICUBIC), [16, 16])
    assert np.array_equal(view.of(image), np.asarray(expected))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"resize": 3}, "input.resize is 3; it must be a whole number of at least 4"),
        ({"aspect": "kept"}, "unknown input.aspect 'kept'; did you mean 'keep'"),
        ({"interpolation": "cubic"}, "unknown input.interpolation 'cubic'"),
        ({"size": 0}, "input.size is 0"),
    ],
)
def test_an_invalid_view_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(VIEW, **changed)


def test_exif_rotation_is_applied_on_request(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert original(tmp_path / "turned.jpg", OWN).size == (4, 8)
    assert original(tmp_path / "turned.jpg", PUBLISHED).size == (8, 4)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_rotation_is_pils(turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    noise = np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    assert np.array_equal(np.asarray(original(tmp_path / "turned.png", OWN)), expected)


def test_damaged_exif_data_cost_no_image(tmp_path: Path) -> None:
    """A cut block, and a turned image with a value that PIL reads and cannot write."""
    image = Image.new("RGB", (8, 4))
    image.save(tmp_path / "cut.png", exif=b"Exif\0\0II*\0abc")
    assert original(tmp_path / "cut.png", OWN).size == (8, 4)
    entries = struct.pack("<HHIIHHII", 0x0112, 3, 1, 6, 0x0128, 4, 1, 70_000)
    image.save(tmp_path / "odd.png", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + b"\0" * 4)
    assert original(tmp_path / "odd.png", OWN).size == (4, 8)


# --- few-shot


def few_shot(root: Path, lists: str, images: str, twice: bool = False) -> None:
    """Three classes, 2 shots, in a published layout; names have blanks."""
    names = {f"class {label}/{number}.png": label for label in range(3) for number in range(2)}
    write(root / lists / "train_meta.list.num_shot_2.seed_1", names)
    if twice:
        file = root / lists / "train_meta.list.num_shot_2.seed_1"
        file.write_text(file.read_text() * 2)
    for which, first, count in (("val", 10, 4), ("test", 20, 5)):
        held = {f"class {number % 3}/{first + number}.png": number % 3 for number in range(count)}
        write(root / lists / f"{which}_meta.list", held)
        names |= held
    for place, name in enumerate(names):
        paint(root / images / name, place)


LAYOUTS = [
    ("my set/annotations", "my set/images"),  # NOAH
    ("my set/annotations", "my set"),
    ("few-shot_split/my set/annotations", "my set"),  # DTL
]


def few_shot_task(root: Path, **changed: Any) -> Task:
    options: dict[str, Any] = {
        "name": "mine_2",
        "title": "2-shot",
        "suite": "fewshot",
        "group": "Mine",
        "classes": 3,
        "folders": ["other name", "my set"],
        "shots": 2,
        "draw": 1,
        "unique": False,
        "val_images": 4,
        "test_images": 5,
        "cache": str(root / "cache"),
        "view": VIEW,
    }
    return fewshot.load(**options | changed, root=str(root))


@pytest.mark.parametrize(("lists", "images"), LAYOUTS)
def test_few_shot_layouts(lists: str, images: str, tmp_path: Path) -> None:
    few_shot(tmp_path, lists, images)
    task = few_shot_task(tmp_path)
    assert task.open("train").labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert task.open("trainval").images[:, 0, 0, 0].tolist() == list(range(6))
    assert task.open("val").labels.tolist() == [0, 1, 2, 0]
    assert task.open("test").images[:, 0, 0, 0].tolist() == list(range(10, 15))


def test_an_image_listed_twice_counts_once_with_unique(tmp_path: Path) -> None:
    few_shot(tmp_path, *LAYOUTS[0], twice=True)
    assert len(few_shot_task(tmp_path).open("train")) == 12
    once = few_shot_task(tmp_path, unique=True).open("train")
    assert once.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_every_draw_has_its_own_pixels(tmp_path: Path) -> None:
    """Names of lists have dots; the pixel cache must not take the rest for a suffix."""
    few_shot(tmp_path, *LAYOUTS[0])
    notes = tmp_path / LAYOUTS[0][0]
    first = (notes / "train_meta.list.num_shot_2.seed_1").read_text().splitlines()
    (notes / "train_meta.list.num_shot_2.seed_2").write_text("\n".join(reversed(first)))
    drawn = [few_shot_task(tmp_path, draw=draw).open("train") for draw in (1, 2)]
    assert drawn[0].images[:, 0, 0, 0].tolist() == list(range(6))
    assert drawn[1].images[:, 0, 0, 0].tolist() == list(reversed(range(6)))
    assert drawn[0].fingerprint["sha256"] != drawn[1].fingerprint["sha256"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"draw": 3}, "dataset.draw is 3; it must be a whole number from 0 to 2"),
        ({"shots": 4}, "num_shot_4.seed_1' cannot be read: No such file"),
        ({"draw": 0}, "num_shot_2.seed_0' cannot be read: No such file"),
        ({"classes": 4}, "lists 6 different images, and the task has 8"),
        ({"classes": 2}, "has label 2; the task has 2 classes"),
        ({"folders": ["x", "y"]}, r"fewshot/mine_2 has no folder '.*x/annotations' \(nor y/"),
    ],
)
def test_few_shot_mistakes(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    few_shot(tmp_path, *LAYOUTS[0])
    with pytest.raises(UserError, match=message):
        few_shot_task(tmp_path, **changed).open("train")


# --- domain generalisation


def domains(root: Path, classes: int = 5) -> None:
    """A source and a test set that has two classes of five."""
    train = {
        f"n{label}/{label}_{shot}.JPEG": label for label in range(classes) for shot in range(2)
    }
    write(root / "imagenet/annotations/train_meta.list.num_shot_2.seed_0", train)
    val = {f"ILSVRC2012_val_0000000{place}.JPEG": place % 5 for place in range(6)}
    write(root / "imagenet/annotations/val_meta.list", val)
    hard = {"imagenet-a/n1/a b (1).jpg": 1, "imagenet-a/n4/c.jpg": 4}
    hard |= {f"imagenet-a/n{label}/d.jpg": label for label in range(6, classes, 5)}
    write(root / "imagenet-a/annotations/val_meta.list", hard)
    for place, name in enumerate(train):
        paint(root / "imagenet/images/train" / name, place)
    for name in val:
        paint(root / "imagenet/images/val" / name, 9)
    for name in hard:
        paint(root / "imagenet-a" / name, 9)


def domain_task(root: Path, **changed: Any) -> Task:
    options: dict[str, Any] = {
        "name": "imagenet",
        "title": "ImageNet",
        "suite": "dg",
        "group": "domain generalisation",
        "classes": 5,
        "shots": 2,
        "draw": 0,
        "test_images": {"imagenet": 6, "a": 2},
        "folders": {"imagenet": ["imagenet"], "a": ["imagenet-adversarial", "imagenet-a"]},
        "cache": str(root / "cache"),
        "view": VIEW,
    }
    return dg.load(**options | changed, root=str(root))


def test_one_training_has_several_test_sets(tmp_path: Path) -> None:
    domains(tmp_path)
    task = domain_task(tmp_path)
    assert task.tests == ("imagenet", "a")
    assert task.open("train").labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert task.open("imagenet").labels.tolist() == [0, 1, 2, 3, 4, 0]
    assert task.open("a").labels.tolist() == [1, 4]  # the labels of the source
    with pytest.raises(UserError, match=r"dg/imagenet has no val images, only train, .*protocol"):
        task.open("val")


def test_a_test_set_of_few_classes_is_scored_among_all(tmp_path: Path) -> None:
    domains(tmp_path, classes=1000)
    task = domain_task(tmp_path, classes=1000, test_images={"a": 201})
    labels = task.open("a").labels
    assert (task.classes, len(labels.unique()), int(labels.max())) == (1000, 201, 996)
    assert len(task.open("train").labels.unique()) == 1000


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"folders": {"imagenet": ["in"]}}, "names no folder of its test set 'a'"),
        ({"draw": -1}, "dataset.draw is -1"),
        ({"test_images": {"a": 3}}, "lists 2 images, and the task has 3"),
    ],
)
def test_domain_mistakes(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    domains(tmp_path)
    with pytest.raises(UserError, match=message):
        domain_task(tmp_path, **changed).open("a")


# --- own folders


def own(root: Path, splits: tuple[str, ...] = ("",), images: int = 20) -> Path:
    for split in splits:
        for number in range(images):
            paint(root / split / ["cat", "dog 2"][number % 2] / f"{number:02d}.png", number)
    return root


def own_task(root: Path, cache: Path, **changed: Any) -> Task:
    images = tree.scan(str(root))
    options: dict[str, Any] = {
        "name": "pets",
        "title": "pets",
        "suite": "folder",
        "group": "own",
        "classes": len(images.names),
        "content": images.content(),
        "val_share": 0.1,
        "test_share": 0.2,
        "split_seed": 0,
        "cache": str(cache),
        "view": VIEW,
    }
    return folder.load(**options | changed, root=str(root))


def paths(task: Task, split: str) -> set[str]:
    return set(task.lists[split]().paths)


def test_every_class_of_a_folder_is_divided_by_the_same_shares(tmp_path: Path) -> None:
    task = own_task(own(tmp_path / "pets"), tmp_path / "cache")
    assert task.names == ("cat", "dog 2")
    parts = {split: paths(task, split) for split in ("train", "val", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 14, "val": 2, "test": 4}
    assert len(set.union(*parts.values())) == 20
    assert task.open("test").labels.sum() == 2
    assert paths(task, "trainval") == parts["train"] | parts["val"]
    assert task.lists["train"]().decoding == OWN


def test_a_folder_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    splits = ("train", "val", "test")
    task = own_task(own(tmp_path / "photos.v2", splits), tmp_path / "cache")
    opened = {split: task.open(split) for split in splits}
    assert len({str(split.fingerprint["sha256"]) for split in opened.values()}) == 1  # alike
    paint(tmp_path / "photos.v2" / "test" / "cat" / "00.png", 99)
    changed = own_task(tmp_path / "photos.v2", tmp_path / "cache").open("test")
    assert changed.images[0, 0, 0, 0] == 99
    wide = replace(VIEW, interpolation="bilinear")
    assert pixels.locate(task.lists["val"](), view=wide, cache=tmp_path) != pixels.locate(
        task.lists["val"](), view=VIEW, cache=tmp_path
    )
    assert resolvers.name_of(str(tmp_path / "photos.v2")) == "photos.v2"


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    root = own(tmp_path / "pets")
    before = tree.scan(str(root)).images
    paint(root / "cat" / ".ipynb_checkpoints" / "a.png", 1)
    (root / "cat" / "folder.png").mkdir()
    tree.scan.cache_clear()
    assert tree.scan(str(root)).images == before


def test_an_image_named_twice_counts_once(tmp_path: Path) -> None:
    own(tmp_path)
    names = [f"{kind}/{number:02d}.png,{kind}" for number in range(20) for kind in
             [["cat", "dog 2"][number % 2]]]  # fmt: skip
    (tmp_path / "x.csv").write_text("path,label\n" + "\n".join(names * 2))
    task = own_task(tmp_path / "x.csv", tmp_path / "cache")
    parts = [paths(task, split) for split in ("train", "val", "test")]
    assert [len(task.lists[split]()) for split in ("train", "val", "test")] == [14, 2, 4]
    assert len(set.union(*parts)) == 20


def test_an_image_is_one_however_its_path_is_written(tmp_path: Path) -> None:
    """Else one image could be in train and in test."""
    own(tmp_path / "images")
    table = tmp_path / "lists" / "x.csv"
    table.parent.mkdir()
    near, far = "../images/cat/00.png", "../images/dog 2/00.png"
    same = [near, f"./{near}", f"../lists/{near}", str(tmp_path / "images" / "cat" / "00.png")]
    table.write_text("\n".join(["path,label", *(f"{path},cat" for path in same), f"{far},dog"]))
    found = tree.scan(str(table)).images
    assert [(image.path, image.label) for image in found] == [(near, "cat"), (far, "dog")]
    table.write_text(f"path,label\n{near},cat\n./{near},dog\n")
    tree.scan.cache_clear()
    with pytest.raises(UserError, match=r"gives './\.\./images/cat/00\.png' another label"):
        tree.scan(str(table))


def test_the_division_depends_only_on_paths_and_seed(tmp_path: Path) -> None:
    first = own_task(own(tmp_path / "a"), tmp_path / "cache")
    again = own_task(own(tmp_path / "b"), tmp_path / "cache")
    other = own_task(tmp_path / "b", tmp_path / "cache", split_seed=1)
    assert paths(first, "test") == paths(again, "test") != paths(other, "test")


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train", "val", "test"), {"train": 20, "val": 20, "test": 20}),
        (("Training", "Testing"), {"train": 18, "val": 2, "test": 20}),
        (("train", "valid"), {"train": 16, "val": 20, "test": 4}),
    ],
)
def test_splits_of_the_user_are_kept(
    splits: tuple[str, ...], expected: dict[str, int], tmp_path: Path
) -> None:
    task = own_task(own(tmp_path / "pets", splits), tmp_path / "cache")
    assert {split: len(paths(task, split)) for split in expected} == expected


def test_a_class_of_one_image_stays_in_train(tmp_path: Path) -> None:
    root = own(tmp_path / "pets")
    paint(root / "owl" / "only.png", 1)
    task = own_task(root, tmp_path / "cache", val_share=0.5)
    assert "owl/only.png" in paths(task, "train")
    assert task.names == ("cat", "dog 2", "owl")


def test_a_table_names_images_classes_and_splits(tmp_path: Path) -> None:
    own(tmp_path)
    rows = [f'"{kind}/{number:02d}.png", {number % 2 + 9},{split}' for number, kind, split in [
        (0, "cat", "train"), (1, "dog 2", ""), (2, "cat", "Test"), (3, "dog 2", "test"),
    ]]  # fmt: skip
    file = tmp_path / "images.csv"
    file.write_text("\ufeffpath,label,split\r\n" + "\r\n".join(rows) + "\r\n")
    task = own_task(file, tmp_path / "cache", val_share=0.0)
    assert task.names == ("9", "10")  # numbers by their value
    assert paths(task, "train") == {"cat/00.png", "dog 2/01.png"}
    assert task.open("test").labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="has no val images"):
        task.open("val")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_as_spreadsheets_write_them(
    encoding: str, separator: str, end: str, tmp_path: Path
) -> None:
    file = tmp_path / "images.csv"
    rows = [["Label ", "PATH", "Note", "Split"], ["Käfer", '"a,b;.png"', "", "Test"]]
    rows += [["дом", "c d.png", "x", ""], [], ["дом", "e.png"]]
    text = end.join(separator.join(row) for row in rows) + end
    file.write_bytes(text.encode(encoding))
    images = list(tree.scan(str(file)).images)
    assert images == [
        tree.Image("a,b;.png", "Käfer", "test"),
        tree.Image("c d.png", "дом", None),
        tree.Image("e.png", "дом", None),
    ]


def test_the_place_of_absolute_paths_does_not_matter(tmp_path: Path) -> None:
    found = []
    for place in ("here", "there"):
        folder = tmp_path / place
        for number in range(4):
            paint(folder / "images" / ["cat", "dog"][number % 2] / f"{number}.png", number)
        files = sorted(folder.rglob("*.png"))
        file = tmp_path / f"{place}.csv"
        file.write_text("\n".join(["path,label", *(f"{f},{f.parent.name}" for f in files)]))
        found.append(tree.scan(str(file)))
        assert found[-1].folder == folder / "images"
    assert [image.path for image in found[0].images] == [
        "cat/0.png",
        "cat/2.png",
        "dog/1.png",
        "dog/3.png",
    ]
    assert found[0].content() == found[1].content()
    # one absolute path among relative ones
    mixed = tmp_path / "mixed.csv"
    mixed.write_text(f"path,label\nhere/images/cat/0.png,cat\n{tmp_path}/there/a.png,dog\n")
    images = tree.scan(str(mixed)).images
    assert [image.path for image in images] == ["here/images/cat/0.png", "there/a.png"]


def test_a_table_of_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "images.csv"
    file.write_bytes("path,label\na.png,Käfer\n".encode("cp1252"))
    with pytest.raises(UserError, match="cannot be read as CSV: it is neither UTF-8 nor UTF-16"):
        tree.scan(str(file))


@pytest.mark.parametrize("junk", sorted(image_files.LEFT_BEHIND))
def test_what_archivers_leave_beside_splits_is_left_out(junk: str, tmp_path: Path) -> None:
    root = own(tmp_path / "pets", ("train", "test"))
    before = tree.scan(str(root)).images
    for place in (root / junk, root / "train" / junk, root / "train" / "cat" / junk):
        paint(place / "train" / "cat" / "a.png", 1)
    tree.scan.cache_clear()
    after = tree.scan(str(root))
    assert after.images == before
    assert not remarks.ignored(after)


def two_columns(root: Path) -> Path:
    (root / "x.csv").write_text("path,label,Label\na,b,c\n")
    return root / "x.csv"


def no_columns(root: Path) -> Path:
    (root / "x.csv").write_text("file,class\na,b\n")
    return root / "x.csv"


def odd_split(root: Path) -> Path:
    (root / "x.csv").write_text("path,label,split\na,b,dev\n")
    return root / "x.csv"


def no_label(root: Path) -> Path:
    (root / "x.csv").write_text("path,label\na,b\nc\n")
    return root / "x.csv"


def flat(root: Path) -> Path:
    paint(root / "flat" / "a.png", 1)
    return root / "flat"


def two_labels(root: Path) -> Path:
    (root / "x.csv").write_text("path,label\na.png,b\n\na.png,d\n")
    return root / "x.csv"


def split_and_class(root: Path) -> Path:
    own(root / "own", ("train", "test", "docs"))
    return root / "own"


def lost(root: Path) -> Path:
    (root / "x.csv").write_text("path,label\na.png,b\nc.png,d\n")
    return root / "x.csv"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nothing", "no folder or file '.*nothing'; name a folder with"),
        (flat, r"has 0 images of 0 classes \(none\); .*are in no folder of a class"),
        (no_columns, "has the columns file, class; path and label are needed"),
        (two_columns, "has 2 columns 'label'; keep one"),
        (odd_split, "line 2 of .* has split 'dev'; use train, val or test"),
        (no_label, "line 3 of .* has no path or no label"),
        (two_labels, "line 4 of .* gives 'a.png' another label or split"),
        (split_and_class, "has folders of splits and 'docs', which is not one"),
        (lost, "image '.*a.png' of '.*x.csv' cannot be read: No such file"),
    ],
)
def test_defects_of_own_images(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        own_task(make(tmp_path), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_too_few_images_for_a_test_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leaves no image for test: 2 images, 2 classes"):
        own_task(own(tmp_path / "pets", images=2), tmp_path / "cache")


# --- through the configuration


def test_the_configuration_reads_classes_and_content_from_a_folder(tmp_path: Path) -> None:
    root = own(tmp_path / "My pets!")
    config = compose.single(["dataset=folder", f"dataset.root={str(root)!r}"])
    assert config.dataset.classes == 2
    assert config.factors.task == "folder/My_pets_"
    content = config.dataset.target.values["content"]
    assert content == tree.scan(str(root)).content()
    task = configured.task(config)
    assert (task.name, task.classes) == ("My_pets_", 2)
    own(tmp_path / "other", images=21)
    other = compose.single(["dataset=folder", f"dataset.root={tmp_path / 'other'}"])
    assert other.dataset.target.values["content"] != content


def test_the_data_of_a_protocol_are_checked_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = own(tmp_path / "pets")
    options = [
        "dataset=folder",
        f"dataset.root={root}",
        f"dataset.cache={tmp_path / 'cache'}",
        f"results.root={tmp_path / 'runs'}",
    ]
    monkeypatch.setattr(build, "method", lambda config: pytest.fail("too late"))
    with pytest.raises(UserError, match="folder/pets has no val images"):
        run(compose.single([*options, "protocol=trial", "dataset.val_share=0"]))
    config = compose.single(options)
    (root / "cat" / "00.png").unlink()  # after the listing was read
    with pytest.raises(UserError, match=r"which .*pets. lists, is missing"):
        run(config)
    assert not list((tmp_path / "cache").glob("**/*.u8"))


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no folder or file '.*nowhere'; name a folder"):
        compose.single(["dataset=folder", f"dataset.root={tmp_path / 'nowhere'}"])
    with pytest.raises(UserError, match=r"no value for 'dataset.root'; set dataset.root=VALUE"):
        compose.single(["dataset=folder"])


def test_a_search_gets_two_parts_of_the_training_images(tmp_path: Path) -> None:
    few_shot(tmp_path, *LAYOUTS[0])
    task = few_shot_task(tmp_path)
    both = compose.single(["protocol=best_on_val"])
    first, second = splits.halves(both, task)
    assert (len(first), len(second)) == (6, 4)
    alone = compose.single(["protocol=final"])
    with pytest.raises(
        UserError, match="fewer than 5 training images of each class, too few for a search"
    ):
        splits.halves(alone, task)
    divided = own_task(own(tmp_path / "pets"), tmp_path / "cache")
    first, second = splits.halves(alone, divided)
    assert (len(first), len(second)) == (14, 2)
    assert torch.equal(first.labels, divided.open("train").labels)


# --- images that cannot be decoded


def spoil(root: Path, name: str) -> None:
    """Cut an image, as an interrupted copy does."""
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[: len(content) // 2])


def with_bad_images(tmp_path: Path, *options: str) -> tuple[Config, list[str]]:
    """A task whose test split has two bad images, and their paths."""
    root = own(tmp_path / "pets", ("train", "test"))
    bad = ["test/cat/04.png", "test/dog 2/05.png"]
    for name in bad:
        spoil(root, name)
    given = [f"dataset.root={root}", f"dataset.cache={tmp_path / 'cache'}", *options]
    common = [
        "dataset=folder",
        "method=linear",
        "train.epochs=1",
        "train.schedule.warmup_epochs=0",
    ]
    return compose.single(
        [*common, "train.batch_size=4", f"results.root={tmp_path / 'runs'}", *given]
    ), bad


@pytest.mark.parametrize(
    "start", [run, single.run, lambda config: perform([planned(config)], Store, Basic())]
)
def test_a_bad_image_of_the_test_split_is_refused_before_training(
    start: Callable[[Config], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = with_bad_images(tmp_path)
    monkeypatch.setattr(build, "method", lambda config: pytest.fail("too late"))
    with pytest.raises(
        UserError, match=r"04.png' cannot be decoded: .*on_bad_image=skip"
    ) as error:
        start(config)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "runs").glob("**/*.*")) == []
    assert list((tmp_path / "cache").glob("**/*test*.u8")) == []


def planned(config: Config) -> Planned:
    return Planned(config, "id", TO_RUN)


def test_bad_images_are_left_out_and_named_in_the_record(tmp_path: Path) -> None:
    config, bad = with_bad_images(tmp_path, "dataset.on_bad_image=skip")
    record = run(config)
    assert record["status"] == "finished", record["reason"]
    about = record["provenance"]["splits"]
    assert about["test"]["skipped"] == bad
    assert about["test"]["images"] == record["scores"]["test"]["total"] == 20 - len(bad)
    assert "skipped" not in about["trainval"]
    split = configured.task(config).open("test")
    # the images at their own size follow the same numbers
    firsts = [np.asarray(split.original(number))[0, 0, 0] for number in range(len(split))]
    assert split.images[:, 0, 0, 0].tolist() == firsts
    for file in (tmp_path / "cache").glob("**/*.skipped.json"):
        file.write_text("[")  # derived state is made anew
    assert configured.task(config).open("test").fingerprint == about["test"]


def test_what_happens_to_a_bad_image_is_part_of_the_identity_unless_it_is_refused(
    tmp_path: Path,
) -> None:
    config, _ = with_bad_images(tmp_path)
    plain = config.plain()
    skip = {**plain, "dataset": {**plain["dataset"], "on_bad_image": "skip"}}
    before = {**plain, "dataset": dict(plain["dataset"])}
    del before["dataset"]["on_bad_image"]
    assert identity(before) == identity(plain) != identity(skip)
    with pytest.raises(UserError, match=r"unknown dataset\.on_bad_image 'ignore'"):
        configured.task(with_bad_images(tmp_path / "b", "dataset.on_bad_image=ignore")[0])


def test_a_split_without_any_good_image_is_refused(tmp_path: Path) -> None:
    config, _ = with_bad_images(tmp_path, "dataset.on_bad_image=skip")
    for file in (tmp_path / "pets" / "test").glob("*/*.png"):
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match=r"no image of '.*' can be decoded"):
        splits.decoded(config)


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"sha256": "a"}', "[" * 99999])
def test_a_damaged_file_beside_the_pixels_is_made_again(content: str, tmp_path: Path) -> None:
    config, _ = with_bad_images(tmp_path, "dataset.on_bad_image=skip")
    before = configured.task(config).open("train").fingerprint
    for file in (tmp_path / "cache").glob("**/pets-*.json"):
        if not file.name.endswith(".skipped.json"):
            file.write_text(content)
    (tmp_path / "cache" / "folder" / f"{OWN_TEMPORARY}cut").write_text("of a killed process")
    assert configured.task(config).open("train").fingerprint == before
    assert list((tmp_path / "cache").glob("**/.petlbench-tmp-*")) == []


# --- what a folder holds beside its images


@pytest.mark.parametrize(
    "suffix", [".jfif", ".jpe", ".JPG", ".tga", ".jp2", ".pbm", ".qoi", ".ico"]
)
def test_every_format_that_pillow_reads_counts(suffix: str, tmp_path: Path) -> None:
    assert suffix.lower() in image_files.suffixes()
    root = own(tmp_path / "pets")
    (root / "cat" / "00.png").rename(root / "cat" / f"00{suffix}")
    assert len(tree.scan(str(root)).images) == 20


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".h5", ".eps", ".mpg", ".heic2", ""])
def test_other_files_do_not(suffix: str, tmp_path: Path) -> None:
    root = own(tmp_path / "pets")
    (root / "cat" / f"notes{suffix}").touch()
    found = tree.scan(str(root))
    assert len(found.images) == 20
    kind = suffix or "no suffix"
    assert remarks.ignored(found) == [
        f"1 file is ignored (1 {kind}); images are {image_files.USUAL}, for example "
        f"'{root / 'cat' / f'notes{suffix}'}'"
    ]
    for number in range(2):
        for more in (".heic", ".mov", ".xmp", ".zip"):
            (root / "cat" / f"{number}{more}").touch()
    [sentence] = remarks.ignored(found)
    assert sentence.startswith("9 files are ignored (2 .heic, 2 .mov, 2 .xmp, others); images are")


def test_linked_folders_are_read_and_circles_end(tmp_path: Path) -> None:
    root, elsewhere = own(tmp_path / "pets"), own(tmp_path / "more")
    (root / "cat" / "linked").symlink_to(elsewhere / "cat")
    (root / "fox").symlink_to(elsewhere / "dog 2")
    (root / "cat" / "circle").symlink_to(root)
    (elsewhere / "cat" / "up").symlink_to(elsewhere / "cat")
    found = tree.scan(str(root))
    assert found.names == ("cat", "dog 2", "fox")
    assert [sum(image.label == name for image in found.images) for name in found.names] == [
        20,
        10,
        10,
    ]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("ant", "Ant"),
        ("0", "00"),
        ("caf\u00e9", "cafe\u0301"),
        ("red fox", "red_fox"),
        ("a", "a "),
    ],
)
def test_one_class_under_two_names_is_refused(train: str, test: str, tmp_path: Path) -> None:
    for split, name in (("train", train), ("test", test)):
        for number, label in enumerate((name, "1")):
            paint(tmp_path / split / label / f"{number}.png", number)
    with pytest.raises(
        UserError, match=r"names one class '.*' in t.* and '.*' in t.*; give it"
    ) as error:
        tree.scan(str(tmp_path))
    assert "\n" not in str(error.value)


def test_two_classes_of_one_split_may_be_spelled_alike_and_have_one_order(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("00", "0", "1"):
            paint(tmp_path / split / label / "a.png", 1)
    assert tree.scan(str(tmp_path)).names == ("0", "00", "1")


def test_a_class_that_nothing_teaches_is_refused(tmp_path: Path) -> None:
    root = own(tmp_path / "pets", ("train", "test"))
    paint(root / "test" / "wolf" / "0.png", 1)
    with pytest.raises(
        UserError, match="images of class 'wolf' in test alone, so nothing teaches"
    ):
        own_task(root, tmp_path / "cache")


def test_a_run_says_in_one_line_what_it_leaves_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = own(tmp_path / "pets", ("train", "test"))
    paint(root / "train" / "wolf" / "0.png", 1)
    paint(root / "train" / "loose.png", 1)
    (root / "train" / "cat" / "phone.heic2").touch()
    (root / "train" / "empty").mkdir()
    options = ["dataset=folder", f"dataset.root={root}", f"dataset.cache={tmp_path / 'cache'}"]
    splits.prepared(compose.single(options))
    [line] = [entry.getMessage() for entry in caplog.records if "pets" in entry.getMessage()]
    for part in (
        "folder/pets: ",
        "loose.png",
        "phone.heic2",
        "empty",
        "1 class has no image in test",
    ):
        assert part in line
    assert "\n" not in line


# --- folds


def test_every_image_is_tested_in_one_fold_of_equal_shares(tmp_path: Path) -> None:
    root = own(tmp_path / "pets", images=23)
    tasks = [own_task(root, tmp_path / "cache", folds=5, fold=fold) for fold in range(5)]
    tested = [paths(task, "test") for task in tasks]
    assert sorted(path for part in tested for path in part) == sorted(
        image.path for image in tree.scan(str(root)).images
    )
    for task, part in zip(tasks, tested, strict=True):
        assert len(part) in (4, 5)
        assert sum(path.startswith("cat") for path in part) in (2, 3)
        assert not part & paths(task, "trainval")
        assert len(part | paths(task, "trainval")) == 23


def test_a_folder_with_a_long_name_is_cached(tmp_path: Path) -> None:
    root = own(tmp_path / ("ä" * 120))
    split = own_task(root, tmp_path / "cache").open("train")
    assert len(split) == 14
    assert all(len(os.fsencode(path.name)) <= 255 for path in (tmp_path / "cache").rglob("*"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fold": 2}, "dataset.fold is 2 and dataset.folds is null"),
        ({"folds": 1}, "dataset.folds is 1; it must be a whole number from 2 to 20"),
        ({"folds": 5, "fold": 5}, "dataset.fold is 5; it must be a whole number from 0 to 4"),
    ],
)
def test_folds_that_do_not_fit(values: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        own_task(own(tmp_path / "pets"), tmp_path / "cache", **values)


def test_folds_need_images_that_are_not_divided_yet(tmp_path: Path) -> None:
    for name in ("val", "test"):
        divided = own(tmp_path / name, ("train", name))
        with pytest.raises(UserError, match=rf"has a {name} split of its own; dataset\.folds"):
            own_task(divided, tmp_path / "cache", folds=2)
    root = own(tmp_path / "more")
    paint(root / "owl" / "only.png", 1)
    tree.scan.cache_clear()
    with pytest.raises(UserError, match="has one image of class 'owl' to train and test on"):
        own_task(root, tmp_path / "cache", folds=2)


def test_a_fold_is_a_draw_and_changes_no_earlier_identity(tmp_path: Path) -> None:
    root = own(tmp_path / "pets")
    overrides = ["dataset=folder", f"dataset.root={root}", "method=linear"]
    config = compose.single(overrides)
    assert config.factors.draw == 0
    plain = config.plain()
    earlier = {k: v for k, v in plain["dataset"].items() if k not in ("folds", "fold")}
    assert identity(plain | {"dataset": earlier}) == identity(plain)
    folds = [
        compose.single([*overrides, "dataset.folds=3", f"dataset.fold={n}"]) for n in range(3)
    ]
    assert [fold.factors.draw for fold in folds] == [0, 1, 2]
    assert len({identity(fold.plain()) for fold in folds}) == 3


# --- folders that are not as they should be


def without_suffixes(root: Path) -> None:
    for name in ("cat/a", "dog/b"):
        paint(root / f"{name}.png", 1)
        (root / f"{name}.png").rename(root / name)


def one_class(root: Path) -> None:
    paint(root / "cat" / "a.png", 1)


def wrapped(root: Path) -> None:
    for name in ("cat", "dog"):
        paint(root / "photos" / name / "a.png", 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_suffixes, "none of its 2 files has the suffix of an image .*'.*cat/a'; rename"),
        (one_class, r"has 1 image of 1 class \(cat\); at least two classes are needed; name a"),
        (wrapped, r"did you mean '.*photos'\?"),
        (lambda root: paint(root / "a.png", 1), "its images, .*a.png', are in no folder of a cl"),
    ],
)
def test_a_folder_without_two_classes(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "own")
    tree.scan.cache_clear()
    with pytest.raises(UserError, match=message):
        tree.scan(str(tmp_path / "own"))


def test_folders_inside_those_of_classes_are_remarked_on(tmp_path: Path) -> None:
    root = own(tmp_path / "pets")
    paint(root / "cat" / "brown" / "a.png", 1)
    tree.scan.cache_clear()
    assert remarks.ignored(tree.scan(str(root))) == [
        "1 class has images in inner folders, which are no classes, for example 'cat/brown'"
    ]
