"""Data sets of another package, found by its entry point, in every data command."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from petlbench.commands.data.suites import all_suites
from petlbench.config import options, search_path
from tests import trees
from tests.trees import data

Capture = pytest.CaptureFixture[str]
READERS = '''\
from functools import partial
from pathlib import Path

import torch

from petlbench.data.readers import files, lists
from petlbench.data.task import Split, Task, fingerprint

SPLITS = ("train", "val", "test")


def listed(*, name, title, suite, group, classes, root, cache, view):
    """A list of images for each split."""
    read = lambda split: lists.read(Path(root) / f"{split}.txt", classes=classes)
    return files.task(
        {split: partial(read, split) for split in SPLITS}, view=view, cache=cache, name=name,
        title=title, suite=suite, group=group, classes=classes, tests=("test",), parts={},
    )


def made(*, name, title, suite, group, classes, view):
    """No file at all."""
    return Task(name, title, suite, group, classes, ("test",), partial(split, classes))


def split(classes, name):
    labels = torch.arange(12) % classes
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    return Split(images, labels, fingerprint(images, labels, "made"))
'''
COMMON = "title: T\nsuite: theirs\ngroup: own\nclasses: 3\n"
LISTED = """\
root: ${data.root}/theirs
cache: '${oc.env:PETLBENCH_CACHE,"~/.cache/petlbench"}'
"""
FILES = {
    "theirs/__init__.py": "",
    "theirs/readers.py": READERS,
    "theirs/conf/__init__.py": "",
    "theirs/conf/dataset/theirs.yaml": "title: T\nsuite: [theirs/listed, theirs/made]\n",
    "theirs/conf/dataset/theirs/listed.yaml": (
        f"_target_: theirs.readers.listed\nname: listed\n{COMMON}{LISTED}"
    ),
    "theirs/conf/dataset/theirs/made.yaml": (
        f"_target_: theirs.readers.made\nname: made\n{COMMON}"
    ),
    "theirs/conf/dataset/alone/one.yaml": f"_target_: theirs.readers.made\nname: one\n{COMMON}",
    "theirs-1.0.dist-info/entry_points.txt": "[petlbench.conf]\ntheirs = theirs.conf\n",
    "theirs-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n",
}


def clear_caches() -> None:
    search_path.packages.cache_clear()
    options._files.cache_clear()


@pytest.fixture
def readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package, installed as pip does, and images for its lists; yields its readers."""
    for name, content in FILES.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(content)
    for start, split in ((0, "train"), (100, "val"), (200, "test")):
        labels = {f"{split}/{n}.png": n % 3 for n in range(6)}
        trees.write(tmp_path / f"theirs/{split}.txt", labels)
        for number, path in enumerate(labels):
            trees.paint(tmp_path / "theirs" / path, start + number)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PETLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PETLBENCH_DATA", raising=False)
    clear_caches()
    yield import_module("theirs.readers")
    clear_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


def by_task(report: dict[str, Any]) -> dict[str, Any]:
    return {row["task"]: row for row in report["tasks"]}


def test_list_shows_what_exists_and_what_needs_no_files(
    readers: ModuleType, tmp_path: Path, capsys: Capture
) -> None:
    status, report, _ = data(capsys, "list", "theirs", "--root", tmp_path, "--size", 4)
    tasks = by_task(report["suites"][0])
    assert (status, tasks["theirs/made"]["state"]) == (0, "no files needed")
    assert (tasks["theirs/listed"]["state"], tasks["theirs/listed"]["images"]) == ("there", 18)
    assert tasks["theirs/listed"]["decoded_bytes"] == 18 * 3 * 4 * 4
    _, report, _ = data(capsys, "list", "theirs/listed", "--root", tmp_path / "elsewhere")
    [task] = report["suites"][0]["tasks"]
    assert task["state"] == "missing"
    assert "elsewhere/theirs/train.txt' cannot be read" in task["missing"]


def test_list_without_a_suite_has_their_suites_and_single_tasks(readers: ModuleType) -> None:
    suites = set(all_suites())
    assert {"theirs", "alone/one", "vtab"} <= suites
    assert not {"theirs/made", "vtab/cifar", "vtab/natural", "folder"} & suites


def test_verify_reads_files_and_opens_splits(
    readers: ModuleType, tmp_path: Path, capsys: Capture
) -> None:
    status, report, _ = data(capsys, "verify", "theirs", "--root", tmp_path)
    tasks = by_task(report)
    assert (status, [task["defects"] for task in tasks.values()]) == (0, [[], []])
    assert list(tasks["theirs/listed"]["splits"]) == ["train", "val", "test"]
    assert tasks["theirs/listed"]["splits"]["test"]["formats"] == {"PNG": 6}
    made = tasks["theirs/made"]["splits"]
    assert list(made) == ["train", "val", "trainval", "test"]
    assert (made["test"]["images"], made["test"]["labels"]["highest"]) == (12, 2)
    (tmp_path / "theirs/test/3.png").write_bytes(b"no image")
    status, report, _ = data(capsys, "verify", "theirs/listed", "--root", tmp_path)
    assert (status, len(report["tasks"][0]["defects"])) == (1, 1)


DEFECTS = {
    "labels": ("has labels 0 to 6; the task has 3 classes, labels 0 to 2", 7, "uint8"),
    "dtype": ("holds torch.float32 images of shape (12, 3, 8, 8), not uint8", 3, "float32"),
}


@pytest.mark.parametrize("kind", DEFECTS)
def test_verify_reports_what_a_reader_must_not_return(
    kind: str, readers: ModuleType, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    message, classes, dtype = DEFECTS[kind]
    split = readers.split

    def defective(_: int, name: str) -> Any:
        whole = split(classes, name)
        images = whole.images.to(getattr(torch, dtype))
        return type(whole)(images, whole.labels, whole.fingerprint)

    monkeypatch.setattr(readers, "split", defective)
    status, report, _ = data(capsys, "verify", "theirs/made")
    defects = report["tasks"][0]["defects"]
    assert (status, len(defects)) == (1, 4)
    assert defects[0].startswith("train ")
    assert message in defects[0]


def test_a_task_names_all_classes_or_none(
    readers: ModuleType, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = readers.made
    monkeypatch.setattr(readers, "made", lambda **values: replace(made(**values), names=("a",)))
    status, report, _ = data(capsys, "verify", "theirs/made")
    assert (status, report["tasks"][0]["defects"]) == (
        1,
        [
            "dataset._target_ theirs.readers.made names 1 of 3 classes; give Task.names a name "
            "for each, or None"
        ],
    )


def test_cache_decodes_files_and_opens_splits(
    readers: ModuleType, tmp_path: Path, capsys: Capture
) -> None:
    command = ("cache", "theirs", "--root", tmp_path, "--size", 4)
    status, report, _ = data(capsys, *command)
    rows = {(row["task"], row["split"]): row for row in report["splits"]}
    assert status == 0
    assert {row["state"] for row in rows.values()} == {"made"}
    assert rows["theirs/listed", "test"]["bytes"] == 6 * 3 * 4 * 4
    assert rows["theirs/made", "test"]["images"] == 12
    assert len(list((tmp_path / "cache/theirs").glob("*.u8"))) == 3
    _, report, _ = data(capsys, *command)
    states = {row["task"]: row["state"] for row in report["splits"]}
    assert states == {"theirs/listed": "there", "theirs/made": "made"}


def test_prepare_says_that_a_reader_has_no_layout(
    readers: ModuleType, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    status, _, err = data(capsys, "prepare", "theirs", tmp_path / "a.zip", "--root", tmp_path)
    assert status == 2
    assert err == ("error: theirs needs no lists and folders of its own; nothing to prepare\n")


def test_a_reader_that_cannot_be_imported_is_named(
    readers: ModuleType, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "site/theirs/conf/dataset/theirs/made.yaml"
    file.write_text(file.read_text().replace("readers.made", "readers.gone"))
    status, _, err = data(capsys, "list", "theirs/made")
    assert status == 2
    assert err.startswith("error: theirs/made: _target_ names 'theirs.readers.gone'")
    assert err.count("\n") == 1
