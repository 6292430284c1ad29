"""Contents decide which run it is and which pixels are used; places, names and dates do not."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from petlbench.config import compose
from petlbench.config.schema import Config
from petlbench.data import configured, digests, pixels
from petlbench.data.readers import tree, vtab
from petlbench.run import contents
from petlbench.run.identity import identity, placeless
from petlbench.sweep import plan
from tests import trees


def own(root: Path, first: int = 0) -> Path:
    """Two classes of bitmaps, all of one size."""
    for number in range(20):
        path = root / ["cat", "dog"][number % 2] / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (first + number, 0, 0)).save(path)
    return root


def config(root: Path, cache: Path, *more: str) -> Config:
    tree.scan.cache_clear()  # a command is a process of its own
    return compose.single(
        ["dataset=folder", f"dataset.root={root}", f"dataset.cache={cache}", "device=cpu", *more]
    )


def name(settings: Config) -> str:
    return identity(contents.identified(settings))


def replace_keeping_dates(root: Path) -> None:
    """Other images of the same size, with the dates of the old ones, in place."""
    for path in root.rglob("*.bmp"):
        status = path.stat()
        content = bytearray(path.read_bytes())
        content[-20:] = bytes(255 - byte for byte in content[-20:])
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_images_of_the_same_size_and_date_are_another_run(tmp_path: Path) -> None:
    root = own(tmp_path / "pets")
    before = config(root, tmp_path / "cache")
    first = name(before)
    opened = configured.task(before).open("trainval").fingerprint["sha256"]
    replace_keeping_dates(root)
    after = config(root, tmp_path / "cache")
    assert after.dataset == before.dataset  # the listing is the same
    assert name(after) != first
    assert configured.task(after).open("trainval").fingerprint["sha256"] != opened


def test_a_copy_at_another_place_under_another_name_is_the_same_run(tmp_path: Path) -> None:
    root = own(tmp_path / "pets")
    shutil.copytree(root, tmp_path / "deep" / "animals")
    first = name(config(root, tmp_path / "cache"))
    moved = config(tmp_path / "deep" / "animals", tmp_path / "cache2")
    assert moved.factors.task == "folder/animals"
    assert name(moved) == first
    assert name(config(root, tmp_path / "cache", "seed=1")) != first
    assert name(config(root, tmp_path / "cache", "dataset.split_seed=1")) != first


def test_a_label_is_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vtab, "COUNTS", trees.COUNTS)
    trees.vtab_task(tmp_path / "vtab")
    file = tmp_path / "vtab" / "kitti" / "test.txt"
    settings = small(tmp_path)
    before = name(settings)
    file.write_text(file.read_text().replace(" 0\n", " 1\n", 1))
    assert name(settings) != before


def small(root: Path) -> Config:
    settings = compose.single(
        ["dataset=vtab/kitti", f"data.root={root}", f"dataset.cache={root}", "device=cpu"]
    )
    target = settings.dataset.target
    values = {**target.values, "test_images": 6}
    return replace(
        settings, dataset=replace(settings.dataset, target=replace(target, values=values))
    )


@pytest.mark.parametrize("change", [b"a", b"b"])
def test_the_checkpoint_counts_by_its_content(tmp_path: Path, change: bytes) -> None:
    for place in ("one.pth", "other/two.pth"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(change)
    one, two = (
        name(compose.single([f"backbone.checkpoint={tmp_path / place}"]))
        for place in ("one.pth", "other/two.pth")
    )
    assert one == two
    (tmp_path / "one.pth").write_bytes(b"c")
    assert name(compose.single([f"backbone.checkpoint={tmp_path / 'one.pth'}"])) != one


def test_a_record_names_its_run_without_places(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"a")
    settings = config(
        own(tmp_path / "pets"), tmp_path / "cache", f"backbone.checkpoint={tmp_path / 'net.pth'}"
    )
    kept = placeless(contents.identified(settings))
    assert identity(kept) == name(settings)
    assert str(tmp_path) not in json.dumps(kept)
    assert set(kept["contents"]["splits"]) == {"trainval", "train", "val", "test"}


def test_missing_files_leave_a_plan_and_no_digest(tmp_path: Path) -> None:
    settings = compose.single(["dataset=vtab/cifar", f"data.root={tmp_path / 'none'}"])
    assert "contents" not in contents.identified(settings)
    lost = compose.single(["backbone.checkpoint=/no/such/net.pth", "dataset=mini/digits"])
    assert "contents" not in contents.identified(lost)
    [planned] = plan.build([(lost, (), ())], lambda root: set(), lambda _: None)
    assert planned.state == plan.TO_RUN


def test_a_plan_says_which_tasks_have_the_data_of_another(tmp_path: Path) -> None:
    first, second = (own(tmp_path / folder) for folder in ("pets", "again"))
    runs = [
        (config(root, tmp_path, f"seed={seed}", f"dataset.name={label}"), (), ())
        for root, label in ((first, "pets"), (second, "again"))
        for seed in (0, 1)
    ]
    planned = plan.build(runs, lambda root: set(), lambda _: None)
    assert [run.config.factors.task for run in planned] == ["folder/pets"] * 2
    assert plan.doubles(planned) == [
        "same data: folder/again has the images and labels of folder/pets, "
        "whose records stand for both"
    ]
    assert not plan.doubles(plan.build(runs[:2], lambda root: set(), lambda _: None))


def test_a_probe_reads_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "_splits", None)
    assert "contents" not in contents.identified(
        compose.single(["protocol=probe", "method=lora", "device=cpu"])
    )


def test_a_plan_reads_each_task_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Config] = []
    real = contents._splits

    def read(settings: Config) -> contents.Contents:
        calls.append(settings)
        return real(settings)

    monkeypatch.setattr(contents, "_splits", read)
    root = own(tmp_path / "pets")
    runs = [(config(root, tmp_path, f"seed={seed}"), (), ()) for seed in range(5)]
    assert len(plan.build(runs, lambda root: set(), lambda _: None)) == 5
    assert len(calls) == 1


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are hashed from now on; those remembered in memory are forgotten."""
    seen: list[Path] = []
    real = digests._read

    def read(file: Path) -> digests.FileDigest:
        seen.append(file)
        return real(file)

    monkeypatch.setattr(digests, "_read", read)
    monkeypatch.setattr(digests, "_KNOWN", {})
    return seen


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda content: content[: len(content) // 2],
    lambda content: b"",
    lambda content: b"[]",
    lambda content: b"{" * 100_000,
    lambda content: content.replace(b'"files": {"', b'"files": {"x', 1),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_digests_are_remembered_and_a_damaged_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", -1)
    root, cache = own(tmp_path / "pets"), tmp_path / "cache"
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.bmp"))
    first = digests.of_files(root, paths, cache)
    assert digests.of_files(root, paths, cache) == first
    seen = read_files(monkeypatch)
    assert digests.of_files(root, paths, cache) == first
    assert seen == []
    [file] = cache.glob("*.digests")
    file.write_bytes(damage(file.read_bytes()))
    monkeypatch.setattr(digests, "_KNOWN", {})
    assert digests.of_files(root, paths, cache) == first
    assert len(seen) == 20
    monkeypatch.setattr(digests, "_KNOWN", {})
    assert digests.of_files(root, paths, cache) == first
    assert len(seen) == 20


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    root = own(tmp_path / "pets")
    (tmp_path / "file").write_text("")
    assert len(digests.of_files(root, ["cat/0.bmp", "cat/none.bmp"], tmp_path / "file")) == 1


def inverted(path: Path) -> None:
    status = path.stat()
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def emptied(path: Path) -> None:
    path.with_suffix(".json").write_text("")


def listed(path: Path) -> None:
    path.with_suffix(".json").write_text("[]")


def of_others(path: Path) -> None:
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | {"sha256": "0" * 64}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [inverted, emptied, listed, of_others, cut])
@pytest.mark.parametrize("new_process", [True, False])
def test_damaged_pixels_are_decoded_again(
    tmp_path: Path, damage: Any, new_process: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = configured.task(config(own(tmp_path / "pets"), tmp_path / "cache"))
    first = task.open("test")
    expected, about = first.images.clone(), first.fingerprint
    [file] = (tmp_path / "cache").rglob("*.u8")
    damage(file)
    if new_process:
        monkeypatch.setattr(pixels, "_VERIFIED", {})
    again = task.open("test")
    assert torch.equal(again.images, expected)
    assert again.fingerprint == about
    if new_process:
        assert json.loads(file.with_suffix(".json").read_text()) == about


def test_pixels_are_read_for_their_digest_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = configured.task(config(own(tmp_path / "pets"), tmp_path / "cache"))
    about = task.open("test").fingerprint
    monkeypatch.setattr(pixels, "fingerprint", None)
    assert task.open("test").fingerprint == about
    assert about["background"] == "white"
