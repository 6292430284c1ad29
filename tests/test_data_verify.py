"""`python -m petlbench.data verify` on correct data sets, and on each kind of defect."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petlbench.commands.data.main import main
from petlbench.data.readers import tree
from petlbench.mini import suite as mini
from tests import trees
from tests.trees import data

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trees.shrink(monkeypatch, tmp_path / "cache")


def verify_one(capsys: Capture, *arguments: object) -> tuple[int, Any]:
    """The exit status and the report on the one task."""
    status, report, _ = data(capsys, "verify", *arguments)
    [task] = report["tasks"]
    assert status == (1 if task["defects"] else 0)
    return status, task


def test_correct_data_are_reported_in_figures(tmp_path: Path, capsys: Capture) -> None:
    trees.vtab_task(tmp_path / "my data" / "vtab")
    status, task = verify_one(capsys, "vtab/kitti", "--root", tmp_path / "my data")
    assert (status, task["defects"], task["notes"]) == (0, [], [])
    assert list(task["splits"]) == ["train", "val", "trainval", "test"]
    test = task["splits"]["test"]
    assert (test["images"], test["labels"]["highest"], test["labels"]["missing"]) == (6, 3, [])
    assert (test["formats"], test["lossy"]) == ({"PNG": 6}, 0)
    assert test["sizes"] == {"smallest": [[6, 5]], "largest": [[6, 5]], "different": 1}
    assert test["bytes"] > 0


def test_a_fingerprint_depends_on_bytes_and_labels_not_on_paths(
    tmp_path: Path, capsys: Capture
) -> None:
    folders = [trees.vtab_task(tmp_path / name / "vtab") for name in "ab"]

    def fingerprints() -> list[str]:
        tasks = [verify_one(capsys, "vtab/kitti", "--root", tmp_path / name)[1] for name in "ab"]
        return [task["splits"]["test"]["fingerprint"] for task in tasks]

    before = fingerprints()
    assert before[0] == before[1]
    trees.paint(folders[1] / "images/test/000000.png", 99)
    after = fingerprints()
    assert after[0] == before[0] != after[1]


def damage(folder: Path) -> None:
    """Give a task one defect of each kind."""
    (folder / "val200.txt").unlink()
    lines = (folder / "test.txt").read_text().splitlines()
    (folder / "test.txt").write_text("\n".join([*lines, "images/test/000000.png 4", "alone"]))
    (folder / "train800.txt").write_text("images/train800/000000.png 0\n")
    (folder / "images/test/000001.png").write_bytes(b"\x89PNG no image")
    whole = (folder / "images/test/000002.png").read_bytes()
    (folder / "images/test/000002.png").write_bytes(whole[: len(whole) // 2])
    (folder / "images/test/000003.png").unlink()
    shutil.copy(folder / "images/train800val200/000005.png", folder / "images/test/000004.png")


DEFECTS = (
    "list '.*val200.txt' cannot be read: No such file",
    "line 7 of '.*test.txt' has label 4; the task has 4 classes, labels 0 to 3",
    "line 8 of '.*test.txt' is not a path and a label: 'alone'",
    "'.*test.txt' lists 8 images, and the task has 6",
    "'.*train800.txt' lists 1 images, and the task has 8",
    "image '.*000001.png' cannot be decoded",
    "image '.*000002.png' cannot be decoded",
    "image '.*000003.png', which '.*test.txt' lists, is missing",
    "test shares 1 image with trainval, for example '.*000005.png' and '.*test/000004.png'",
)


def test_all_defects_are_reported_at_once(tmp_path: Path, capsys: Capture) -> None:
    damage(trees.vtab_task(tmp_path / "vtab"))
    status, task = verify_one(capsys, "vtab/kitti", "--root", tmp_path)
    assert status == 1
    assert len(task["defects"]) == len(DEFECTS)
    text = "\n".join(task["defects"])
    for expected in DEFECTS:
        assert re.search(expected, text), expected


def test_the_table_ends_with_the_defects(tmp_path: Path, capsys: Capture) -> None:
    damage(trees.vtab_task(tmp_path / "vtab"))
    assert main(["verify", "vtab/structured", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "vtab/kitti: WRONG: line 7 of" in out
    assert "vtab/dmlab: WRONG: vtab/dmlab has no folder" in out
    assert "0 of 8 tasks are right; wrong: vtab/clevr_count" in out
    assert "Traceback" not in out


def relabel(folder: Path) -> None:
    for name in ("train800", "train800val200"):
        text = (folder / f"{name}.txt").read_text()
        (folder / f"{name}.txt").write_text(text.replace("png 3", "png 2"))


def rename(folder: Path) -> None:
    for path in (folder / "images/test").iterdir():
        path.rename(path.with_suffix(".jpg"))
    text = (folder / "test.txt").read_text()
    (folder / "test.txt").write_text(text.replace(".png", ".jpg"))


def on_windows(folder: Path) -> None:
    text = (folder / "test.txt").read_text().replace(" ", "  ").replace("\n", "\r\n")
    (folder / "test.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())


def mix_up(folder: Path) -> None:
    trees.paint(folder / "images/train800val200/000003.png", 77)


def repeat(folder: Path) -> None:
    shutil.copy(folder / "images/test/000001.png", folder / "images/test/000000.png")


NOTES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "classes": (relabel, "train lacks 1 of 4 classes: 3"),
    "suffix": (rename, "test has 6 .jpg files that hold PNG"),
    "blanks": (on_windows, "CRLF line ends and a byte order mark and several blanks in a row"),
    "parts": (mix_up, "trainval does not hold the same images and labels as train and val"),
    "repeats": (repeat, "test repeats 1 of its 6 images"),
}


@pytest.mark.parametrize("kind", NOTES)
def test_notes_are_not_defects(kind: str, tmp_path: Path, capsys: Capture) -> None:
    change, expected = NOTES[kind]
    change(trees.vtab_task(tmp_path / "vtab"))
    status, task = verify_one(capsys, "vtab/kitti", "--root", tmp_path)
    assert status == 0
    assert any(expected in note for note in task["notes"]), task["notes"]


def test_shared_images_can_be_allowed(tmp_path: Path, capsys: Capture) -> None:
    folder = trees.vtab_task(tmp_path / "vtab")
    # the same pixels in another file: no other byte is equal
    with Image.open(folder / "images/val200/000000.png") as image:
        image.save(folder / "images/test/000000.png", compress_level=0)
    status, task = verify_one(capsys, "vtab/kitti", "--root", tmp_path)
    assert status == 1
    assert "test shares 1 image with val" in task["defects"][0]
    status, task = verify_one(capsys, "vtab/kitti", "--root", tmp_path, "--allow-duplicates")
    assert status == 0
    assert "test shares 1 image with val" in "".join(task["notes"])


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_every_kind_of_image_is_read(tmp_path: Path, capsys: Capture) -> None:
    folder = trees.vtab_task(tmp_path / "vtab")
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image, deep = Image.fromarray(noise), Image.fromarray(noise[..., 0].astype(np.uint16) * 256)
    lines: dict[str, int] = {}
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "grey.png": (image.convert("L"), {}),
        "palette.gif": (image.convert("P"), {}),
        "cmyk.jpg": (image.convert("CMYK"), {}),
        "deep.png": (deep, {}),
        "turned.jpg": (image, {"exif": rotated()}),
        "small.webp": (image, {"lossless": True}),
    }
    for name, (picture, options) in kinds.items():
        picture.save(folder / "images" / name, **options)
        lines[f"images/{name}"] = len(lines) % 4
    trees.write(folder / "test.txt", lines)
    status, task = verify_one(capsys, "vtab/kitti", "--root", tmp_path)
    assert status == 0
    test = task["splits"]["test"]
    assert test["formats"] == {"PNG": 2, "JPEG": 2, "GIF": 1, "WEBP": 1}
    assert test["lossy"] == 2
    assert test["sizes"]["largest"] == [[6, 4]]  # VTAB ignores the rotation


def test_files_are_compared_with_their_checksums(tmp_path: Path, capsys: Capture) -> None:
    folder = trees.vtab_task(tmp_path / "vtab")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  images/test/000000.png\n{'1' * 64}  test.txt")
    _, task = verify_one(capsys, "vtab/kitti", "--root", tmp_path)
    assert len(task["defects"]) == 2
    assert all("differs from SHA256SUMS" in line for line in task["defects"])


def test_every_draw_of_a_few_shot_set_is_verified(tmp_path: Path, capsys: Capture) -> None:
    trees.few_shot(tmp_path / "fewshot", "oxford-pets/annotations", "oxford-pets/images")
    status, report, _ = data(capsys, "verify", "fewshot/pets_2", "--root", tmp_path)
    names = [f"fewshot/pets_2 draw {draw}" for draw in range(3)]
    assert (status, [task["task"] for task in report["tasks"]]) == (0, names)
    assert list(report["tasks"][0]["splits"]) == ["train", "val", "test"]
    notes = tmp_path / "fewshot/oxford-pets/annotations"
    with (notes / "train_meta.list.num_shot_2.seed_2").open("a") as file:
        file.write("class 1/200.png 9\nclass 1/100.png 1\n")  # a label too high; an image of val
    status, report, _ = data(capsys, "verify", "fewshot/pets_2", "--root", tmp_path)
    defects = [task["defects"] for task in report["tasks"]]
    assert (status, defects[:2]) == (1, [[], []])
    assert "has label 9" in defects[2][0]
    assert "lists 8 different images, and the task has 6" in defects[2][1]


def test_domains_are_verified_with_their_test_sets(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "dg"
    trees.domains(root, root)
    shutil.move(root / "imagenet-a", root / "imagenet-adversarial")
    status, report, _ = data(capsys, "verify", "dg", "--root", tmp_path)
    assert status == 0
    assert list(report["tasks"][0]["splits"]) == ["train", "imagenet", "a"]
    assert report["tasks"][0]["splits"]["a"]["labels"]["missing"] == [0, 2, 3]
    shutil.rmtree(root / "imagenet-adversarial")
    status, report, _ = data(capsys, "verify", "dg", "--root", tmp_path)
    assert status == 1
    [defect] = report["tasks"][0]["defects"]
    assert "dg/imagenet has no folder" in defect


def test_own_images_are_rotated_and_compared(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "my photos"
    for split, first in (("train", 0), ("test", 50)):
        for number in range(4):
            trees.paint(root / split / f"kind {number % 2}" / f"{number}.png", first + number)
    Image.new("RGB", (8, 4)).save(root / "train/kind 0/turned.jpg", exif=rotated())
    status, task = verify_one(capsys, "folder", "--root", root)
    assert status == 0
    assert task["splits"]["train"]["sizes"]["largest"] == [[4, 8]]
    shutil.copy(root / "train/kind 0/0.png", root / "test/kind 0/twin.png")
    (root / "test/kind 1/broken.png").write_bytes(b"nothing")
    tree.scan.cache_clear()  # a command is a process of its own
    status, task = verify_one(capsys, "folder", "--root", root)
    assert status == 1
    assert "broken.png' cannot be decoded" in task["defects"][0]
    assert "test shares 1 image with train" in task["defects"][1]


def test_ignored_files_of_a_folder_are_notes(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "own"
    for number in range(20):
        trees.paint(root / ["cat", "dog"][number % 2] / f"{number}.png", number)
    trees.paint(root / "loose.png", 77)
    (root / "cat" / "a.heic").write_bytes(b"")
    (root / "bird").mkdir()
    status, task = verify_one(capsys, "folder", "--root", root)
    assert status == 0
    notes = " ".join(task["notes"])
    assert (
        f"1 image outside a class folder is ignored, for example '{root / 'loose.png'}'" in notes
    )
    assert f"for example '{root / 'cat' / 'a.heic'}'" in notes
    assert f"1 folder holds no image, for example '{root / 'bird'}'" in notes


def test_rendered_images_are_compared_with_the_projects(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = np.zeros((1001, 3, 4, 4), np.uint8), np.arange(1001) % 6
    monkeypatch.setattr(mini, "render", lambda *_: other)
    status, task = verify_one(capsys, "mini/cells")
    assert status == 1
    assert "differs from the published images" in task["defects"][0]
    assert task["splits"]["train"]["images"] == 800


def test_an_interrupt_prints_no_traceback(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    trees.vtab_task(tmp_path / "vtab")
    monkeypatch.setattr("petlbench.commands.data.verify.list_figures", interrupted)
    assert main(["verify", "vtab/kitti", "--root", str(tmp_path)]) == 130
    assert capsys.readouterr().err.startswith("interrupted; the same command continues")
