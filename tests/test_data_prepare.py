"""`python -m petlbench.data prepare`, `list` and `cache` on archives and folders made here."""

import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from petlbench.commands.data import listing, unpack
from petlbench.commands.data.main import main
from petlbench.commands.data.suites import all_suites
from petlbench.data import pixels
from tests import trees
from tests.trees import data

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trees.shrink(monkeypatch, tmp_path / "cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder to pack, with one task of VTAB-1K in it."""
    return trees.vtab_task(tmp_path / "source").parent


def pack(source: Path, archive: Path, above: str = "") -> Path:
    """Write all files of a folder, below `above`, to an archive of the kind of its suffix."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    names = {path: f"{above}{path.relative_to(source).as_posix()}" for path in files}
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path, name in names.items():
                file.write(path, name)
    else:
        kind = {".gz": "w:gz", ".xz": "w:xz"}.get(archive.suffix, "w")
        with tarfile.open(archive, kind) as tape:  # type: ignore[call-overload]
            for path, name in names.items():
                tape.add(path, name)
    return archive


def contents(folder: Path) -> Mapping[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def partial_folders(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.txz"])
@pytest.mark.parametrize("above", ["", "VTAB 1k/data/"])
def test_an_archive_becomes_the_standard_layout(
    name: str, above: str, source: Path, tmp_path: Path, capsys: Capture
) -> None:
    archive = pack(source, tmp_path / name, above)
    status, report, _ = data(capsys, "prepare", "vtab/kitti", archive, "--root", tmp_path / "data")
    assert status == 0
    [row] = report["folders"]
    assert (row["folder"], row["state"], row["files"]) == ("kitti", "made", 34)
    prepared = tmp_path / "data/vtab/kitti"
    assert contents(prepared) == contents(source / "kitti")  # no byte is changed
    assert partial_folders(tmp_path) == []
    assert data(capsys, "verify", "vtab/kitti", "--root", tmp_path / "data")[0] == 0


def test_another_task_is_not_taken_for_the_required_one(
    source: Path, tmp_path: Path, capsys: Capture
) -> None:
    archive = pack(source, tmp_path / "a.zip")
    status, _, err = data(capsys, "prepare", "vtab/cifar", archive, "--root", tmp_path / "data")
    assert status == 2
    assert "a.zip' has the task 'kitti' and no folder cifar" in err
    assert not (tmp_path / "data/vtab/cifar").exists()


def test_folders_are_found_by_other_names(tmp_path: Path, capsys: Capture) -> None:
    trees.vtab_task(tmp_path / "a", "cifar_100")
    archive = pack(tmp_path / "a", tmp_path / "a.zip", "x/")
    assert main(["prepare", "vtab/natural", str(archive), "--root", str(tmp_path)]) == 0
    assert (tmp_path / "vtab/cifar/test.txt").is_file()
    shutil.rmtree(tmp_path / "vtab")
    nameless = pack(tmp_path / "a" / "cifar_100", tmp_path / "b.zip")
    assert main(["prepare", "vtab/cifar", str(nameless), "--root", str(tmp_path)]) == 0
    assert (tmp_path / "vtab/cifar/images/test/000000.png").is_file()
    assert main(["prepare", "vtab/natural", str(nameless), "--root", str(tmp_path)]) == 2
    assert "error: no folder of vtab/natural in" in capsys.readouterr().err


def test_a_finished_folder_is_checked_and_left_alone(
    source: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["prepare", "vtab/kitti", pack(source, tmp_path / "a.zip"), "--root", tmp_path]
    data(capsys, *command)
    image = tmp_path / "vtab/kitti/images/test/000000.png"
    before = image.stat().st_ino, image.stat().st_mtime_ns
    status, report, _ = data(capsys, *command)
    assert (status, report["folders"][0]["state"]) == (0, "finished before")
    assert (image.stat().st_ino, image.stat().st_mtime_ns) == before
    trees.paint(image, 99)
    status, report, err = data(capsys, *command)
    assert (status, report["folders"][0]["state"]) == (1, "broken")
    assert "000000.png' differs from SHA256SUMS" in err
    status, report, _ = data(capsys, "verify", "vtab/kitti", "--root", tmp_path)
    assert status == 1
    [defect] = report["tasks"][0]["defects"]
    assert "000000.png' differs from SHA256SUMS" in defect


def test_a_folder_of_the_user_is_kept(source: Path, tmp_path: Path, capsys: Capture) -> None:
    own = tmp_path / "vtab/kitti"
    own.mkdir(parents=True)
    archive = pack(source, tmp_path / "a.zip")
    status, report, _ = data(capsys, "prepare", "vtab/kitti", archive, "--root", tmp_path)
    assert (status, report["folders"][0]["state"]) == (0, "kept")
    assert list(own.iterdir()) == []


def test_checksums_are_those_of_sha256sum(source: Path, tmp_path: Path, capsys: Capture) -> None:
    data(capsys, "prepare", "vtab/kitti", pack(source, tmp_path / "a.tar"), "--root", tmp_path)
    folder = tmp_path / "vtab/kitti"
    tool = ["sha256sum"] if shutil.which("sha256sum") else ["shasum", "-a", "256"]  # macOS
    assert subprocess.run([*tool, "-c", "SHA256SUMS"], cwd=folder, check=False).returncode == 0
    assert len((folder / "SHA256SUMS").read_text().splitlines()) == 34


# --- archives that are cut off, damaged or hostile


def cut(archive: Path) -> Path:
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) * 2 // 3])
    return archive


def cut_between_members(archive: Path) -> Path:
    with tarfile.open(archive) as tape:
        start = tape.getmembers()[-1].offset
    archive.write_bytes(archive.read_bytes()[:start])
    return archive


def flip(archive: Path) -> Path:
    """Change one byte of an image."""
    content = archive.read_bytes()
    place = content.index(b"IDAT") + 6
    archive.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    return archive


DAMAGES: list[tuple[str, Callable[[Path], Path], str]] = [
    ("a.zip", cut, "is damaged or cut off (File is not a zip file)"),
    ("a.tar", cut, "is damaged or cut off ("),
    ("a.tar", cut_between_members, "is damaged or cut off (it has no end)"),
    ("a.tar.gz", cut, "is damaged or cut off"),
    ("a.tar.xz", cut, "is damaged or cut off"),
    ("a.zip", flip, "Bad CRC-32 for file 'kitti/images/"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_a_damaged_archive_leaves_nothing(
    name: str, damage: Callable[[Path], Path], message: str, source: Path, tmp_path: Path,
    capsys: Capture,
) -> None:  # fmt: skip
    archive = damage(pack(source, tmp_path / name))
    status, _, err = data(capsys, "prepare", "vtab/kitti", archive, "--root", tmp_path / "data")
    # the first byte that is wrong may show only while the archive is unpacked
    assert status == (1 if damage is flip else 2)
    assert message in err
    assert not (tmp_path / "data/vtab/kitti").exists()
    assert partial_folders(tmp_path) == []


def tar_link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    item = tarfile.TarInfo(name)
    item.type, item.linkname = kind, target
    return item


HOSTILE: dict[str, zipfile.ZipInfo | tarfile.TarInfo] = {
    "up": zipfile.ZipInfo("kitti/../../evil.txt"),
    "absolute": zipfile.ZipInfo("/tmp/evil.txt"),
    "drive": zipfile.ZipInfo("C:/evil.txt"),
    "backslash": zipfile.ZipInfo("kitti\\..\\evil.txt"),
    "zip link": zipfile.ZipInfo("kitti/link"),
    "tar up": tarfile.TarInfo("../evil.txt"),
    "tar absolute": tarfile.TarInfo("/evil.txt"),
    "tar link": tar_link("kitti/link", "/etc", tarfile.SYMTYPE),
    "tar hard link": tar_link("kitti/link", "kitti/test.txt", tarfile.LNKTYPE),
    "tar device": tar_link("kitti/null", "", tarfile.CHRTYPE),
}
HOSTILE["zip link"].external_attr = (stat.S_IFLNK | 0o777) << 16  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", HOSTILE)
def test_members_that_could_write_elsewhere_are_refused(
    kind: str, source: Path, tmp_path: Path, capsys: Capture
) -> None:
    member = HOSTILE[kind]
    if isinstance(member, zipfile.ZipInfo):
        archive = pack(source, tmp_path / "a.zip")
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr(member, b"/etc/passwd")
    else:
        archive = pack(source, tmp_path / "a.tar")
        with tarfile.open(archive, "a") as tape:
            tape.addfile(member, io.BytesIO())
    status, _, err = data(capsys, "prepare", "vtab/kitti", archive, "--root", tmp_path / "data")
    assert status == 2
    assert "nothing was unpacked" in err
    assert err.count("\n") == 1
    assert not list((tmp_path / "data").rglob("*"))
    assert not (tmp_path / "evil.txt").exists()


def no_list(folder: Path) -> None:
    (folder / "val200.txt").unlink()


def no_image(folder: Path) -> None:
    (folder / "images/test/000004.png").unlink()


def label(folder: Path) -> None:
    text = (folder / "test.txt").read_text()
    (folder / "test.txt").write_text(text.replace(" 3", " 4"))


INCOMPLETE: list[tuple[Callable[[Path], None], str]] = [
    (no_list, "kitti: broken: list 'kitti/val200.txt' cannot be read: No such file"),
    (no_image, "1 of 6 images of 'kitti/test.txt' are missing, for example 'images/test/000004"),
    (label, "line 4 of 'kitti/test.txt' has label 4; the task has 4 classes"),
]


@pytest.mark.parametrize(("change", "message"), INCOMPLETE)
def test_an_incomplete_folder_is_not_put_in_place(
    change: Callable[[Path], None], message: str, source: Path, tmp_path: Path, capsys: Capture
) -> None:
    trees.vtab_task(source, "dmlab")
    change(source / "kitti")
    archive = pack(source, tmp_path / "a.zip")
    status, report, err = data(capsys, "prepare", "vtab/structured", archive, "--root", tmp_path)
    assert status == 1
    assert message in err
    assert {row["folder"]: row["state"] for row in report["folders"]} == {
        "kitti": "broken",
        "dmlab": "made",
    }
    assert sorted(path.name for path in (tmp_path / "vtab").iterdir() if path.is_dir()) == [
        "dmlab"
    ]


def test_an_interrupted_folder_is_made_again(
    source: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.vtab_task(source, "dmlab")
    archive = pack(source, tmp_path / "a.zip")
    real = unpack._unpack

    def interrupted(sources: Any, target: Path) -> Any:
        digests = real(sources, target)
        if target.name == ".kitti.part":
            raise KeyboardInterrupt
        return digests

    monkeypatch.setattr(unpack, "_unpack", interrupted)
    command = ["prepare", "vtab/structured", archive, "--root", tmp_path]
    assert data(capsys, *command)[0] == 130
    assert (tmp_path / "vtab/dmlab").is_dir()
    assert not (tmp_path / "vtab/kitti").exists()
    (tmp_path / "vtab/.kitti.part").mkdir()  # as a killed process leaves it
    monkeypatch.setattr(unpack, "_unpack", real)
    status, report, _ = data(capsys, *command)
    states = {row["folder"]: row["state"] for row in report["folders"]}
    assert (status, states) == (0, {"dmlab": "finished before", "kitti": "made"})
    assert partial_folders(tmp_path) == []


def test_a_full_disk_is_refused_before_it_is_full(
    source: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "SPARE", 2**60)
    archive = pack(source, tmp_path / "a.zip")
    status, _, err = data(capsys, "prepare", "vtab/kitti", archive, "--root", tmp_path)
    assert status == 2
    assert "GB left; free some space, or give another --root" in err


def test_system_files_are_skipped(source: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("__MACOSX/kitti/._test.txt", "kitti/.DS_Store", "kitti/images/._a.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"junk")
    archive = pack(source, tmp_path / "a.zip")
    _, report, _ = data(capsys, "prepare", "vtab/kitti", archive, "--root", tmp_path)
    assert report["folders"][0]["files"] == 34


# --- few-shot and domain generalisation


def test_several_archives_make_one_folder(tmp_path: Path, capsys: Capture) -> None:
    """The layout of heekhero/DTL: lists in one folder, images in another."""
    trees.few_shot(tmp_path / "a", "few-shot_split/oxford-pets/annotations", "oxford-pets")
    lists = pack(tmp_path / "a/few-shot_split", tmp_path / "lists.zip", "FGFS/few-shot_split/")
    images = pack(tmp_path / "a/oxford-pets", tmp_path / "images.tar", "FGFS/oxford_pets/")
    command = ["prepare", "fewshot/pets_2", lists, images, "--root", tmp_path]
    status, report, _ = data(capsys, *command)
    assert (status, report["folders"][0]["state"]) == (0, "made")
    assert data(capsys, "verify", "fewshot/pets_2", "--root", tmp_path)[0] == 0
    status, _, err = data(capsys, *command[:3], lists, "--root", tmp_path / "b")
    assert status == 2
    assert "is in '" in err


def test_lists_and_images_become_the_standard_layout(tmp_path: Path, capsys: Capture) -> None:
    trees.few_shot(tmp_path / "a", "oxford-pets/annotations", "../images/oxford_pets")
    given = ["--lists", tmp_path / "a", "--images", tmp_path / "images"]
    status, report, _ = data(capsys, "prepare", "fewshot/pets_2", *given, "--root", tmp_path)
    assert (status, report["folders"][0]["state"]) == (0, "made")
    prepared = tmp_path / "fewshot/oxford-pets/images/class 1/100.png"
    original = tmp_path / "images/oxford_pets/class 1/101.png"
    assert not prepared.exists()
    assert prepared.with_name("101.png").stat().st_ino == original.stat().st_ino  # no second copy
    assert data(capsys, "verify", "fewshot/pets_2", "--root", tmp_path)[0] == 0


def test_files_are_copied_if_the_disk_has_no_links(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    trees.few_shot(tmp_path / "a", "oxford-pets/annotations", "images")
    given = ["--lists", tmp_path / "a/oxford-pets", "--images", tmp_path / "a"]
    assert data(capsys, "prepare", "fewshot/pets_2", *given, "--root", tmp_path)[0] == 0
    prepared = tmp_path / "fewshot/oxford-pets/images/class 1/101.png"
    assert prepared.read_bytes() == (tmp_path / "a/images/class 1/101.png").read_bytes()


def test_domains_are_prepared_from_the_official_folders(tmp_path: Path, capsys: Capture) -> None:
    trees.domains(tmp_path / "lists", tmp_path / "images")
    for split in ("train", "val"):  # as ImageNet is unpacked
        shutil.move(tmp_path / "images/imagenet/images" / split, tmp_path / "images/imagenet")
    given = ["--lists", tmp_path / "lists", "--images", tmp_path / "images"]
    status, report, err = data(capsys, "prepare", "dg", *given, "--root", tmp_path)
    assert status == 0, err
    assert [row["state"] for row in report["folders"]] == ["made", "made"]
    assert (tmp_path / "dg/imagenet/images/val/ILSVRC2012_val_00000000.JPEG").is_file()
    assert (tmp_path / "dg/imagenet-adversarial/imagenet-a/n1/a b (1).png").is_file()
    assert data(capsys, "verify", "dg", "--root", tmp_path)[0] == 0


def test_a_list_must_not_leave_its_folder(tmp_path: Path, capsys: Capture) -> None:
    folder = trees.vtab_task(tmp_path / "a")
    (folder / "test.txt").write_text("../../secret.png 0\n")
    given = ["--lists", tmp_path / "a", "--images", tmp_path / "a"]
    status, _, err = data(capsys, "prepare", "vtab/kitti", *given, "--root", tmp_path)
    assert status == 2
    assert "lists '../../secret.png', which leaves its folder" in err


def test_a_part_of_a_suite_is_not_taken_for_all_of_it(tmp_path: Path, capsys: Capture) -> None:
    trees.few_shot(tmp_path / "a", "oxford-pets/annotations", "oxford-pets")
    given = ["--lists", tmp_path / "a", "--images", tmp_path / "a", "--root", tmp_path]
    assert data(capsys, "prepare", "fewshot/pets_2", *given)[0] == 0
    status, _, err = data(capsys, "prepare", "fewshot/pets", *given)
    assert status == 1
    assert "it has no 'annotations/train_meta.list.num_shot_1.seed_0'; delete" in err


# --- list and cache


def test_required_and_existing_data_are_listed(tmp_path: Path, capsys: Capture) -> None:
    trees.vtab_task(tmp_path / "vtab")
    status, report, _ = data(capsys, "list", "vtab/structured", "--root", tmp_path, "--size", 4)
    tasks = {task["task"]: task for task in report["suites"][0]["tasks"]}
    assert (status, len(tasks)) == (0, 8)
    kitti, dmlab = tasks["vtab/kitti"], tasks["vtab/dmlab"]
    assert (kitti["missing"], kitti["images"]) == (None, 30)
    assert kitti["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*.png"))
    assert (kitti["decoded_there"], kitti["decoded_bytes"]) == (0, 30 * 3 * 4 * 4)
    assert "vtab/dmlab has no folder" in dmlab["missing"]
    assert (dmlab["images"], dmlab["folders"]) == (30, ["dmlab"])
    assert main(["list", "mini", "--root", str(tmp_path)]) == 0
    assert "mini: 8 of 8 tasks are available" in capsys.readouterr().out


def test_all_suites_are_listed_if_none_is_named(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites = {"dg", "dg_per_target", "fewshot", "mini", "probe", "vtab"}
    assert suites <= set(all_suites())
    assert "folder" not in all_suites()
    few = ["mini/natural", "probe", "vtab/kitti"]  # composing all takes many seconds
    monkeypatch.setattr(listing, "all_suites", lambda: few)
    status, report, _ = data(capsys, "list")
    listed = [suite["suite"] for suite in report["suites"]]
    assert (status, listed) == (0, ["mini/natural", "vtab/kitti"])  # a probe has no images


def test_images_are_cached_once(tmp_path: Path, capsys: Capture) -> None:
    folder = trees.vtab_task(tmp_path / "vtab")
    command = ["cache", "vtab/kitti", "--root", tmp_path, "--size", 4]
    status, report, err = data(capsys, *command)
    rows = {row["split"]: row for row in report["splits"]}
    assert status == 0
    assert "4 lists to decode, 0.00 GB" in err
    assert {split: row["state"] for split, row in rows.items()} == dict.fromkeys(rows, "made")
    assert (rows["test"]["images"], rows["test"]["bytes"]) == (6, 6 * 3 * 4 * 4)
    [about] = (tmp_path / "cache/vtab").glob("kitti-test-*.json")
    assert rows["test"]["sha256"] == json.loads(about.read_text())["sha256"]
    status, report, _ = data(capsys, *command)
    assert {row["state"] for row in report["splits"]} == {"there"}
    listed = data(capsys, "list", "vtab/kitti", "--root", tmp_path, "--size", 4)[1]
    assert listed["suites"][0]["tasks"][0]["decoded_there"] == 30 * 3 * 4 * 4
    (folder / "images/test/000001.png").write_bytes(b"broken")
    status, report, _ = data(capsys, *command)
    rows = {row["split"]: row for row in report["splits"]}
    assert (status, rows["test"]["state"], rows["train"]["state"]) == (1, "broken", "there")
    assert "cannot be decoded" in rows["test"]["reason"]


def test_caching_checks_the_disk_first(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.vtab_task(tmp_path / "vtab")
    monkeypatch.setattr(pixels, "SPARE", 2**60)
    status, _, err = data(capsys, "cache", "vtab/kitti", "--root", tmp_path)
    assert status == 2
    assert "error: decoding vtab/kitti takes 0.00 GB and" in err
    assert list((tmp_path / "cache").rglob("*.u8")) == []
