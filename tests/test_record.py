"""Records: identity, atomic writes, reading back."""

import errno
import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from petlbench.commands import records as contributed
from petlbench.commands import status as state
from petlbench.config import compose
from petlbench.config.renamed import current_name
from petlbench.errors import UserError
from petlbench.report import __main__ as report
from petlbench.report.read.records import read
from petlbench.run import provenance
from petlbench.run.check import DEEPEST, STATUSES, broken
from petlbench.run.identity import IDENTITY, completed, first_form, identity, placeless
from petlbench.run.record import DELTA, PREDICTIONS, Record, Store, write
from petlbench.sweep import choose
from petlbench.system import (
    ABANDONED_S,
    OWN_TEMPORARY,
    TEMPORARY,
    remove_abandoned,
    temporary_file,
    write_atomically,
)
from tests import records

MEASURED = Path(__file__).parent.parent / "results" / "measured"


def config(**changes: Any) -> dict[str, Any]:
    nodes: dict[str, Any] = {
        "method": {"rank": 2},
        "backbone": {"name": "vit_mini", "checkpoint": None},
        "dataset": {"name": "digits", "cache": "/a"},
        "input": {"size": 48},
        "train": {"lr": 1e-3, "schedule": {"min_lr": 0.0}},
        "protocol": {"name": "final"},
        "seed": 0,
        "results": {"root": "x"},
        "wandb": {"mode": "disabled"},
    }
    return nodes | changes


def test_identity_depends_on_what_decides_the_result_and_on_nothing_else() -> None:
    base = identity(config())
    same = [
        config(results={"root": "y"}),
        config(wandb={"mode": "online"}),
        config(dataset={"cache": "/b", "name": "digits"}),
    ]
    different = [
        config(seed=1),
        config(train={"lr": 1e-3, "schedule": {"min_lr": 1e-8}}),
        config(method={"rank": 4}),
        config(method={}),
    ]
    assert {identity(other) for other in same} == {base}
    assert len({base, *map(identity, different)}) == 5


def run(seed: int, top1: float | None = 50.0, **changes: Any) -> Record:
    """A finished run, or a failed one where top1 is None."""
    return records.record("lora", "digits", top1, seed, **{"id": f"{seed:016x}"} | changes)


def test_the_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    store, runs = Store(tmp_path), [run(0), run(1, None)]
    for one in runs:
        store.write(one)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "cut-short.json").write_text("{")
    assert list(store.records()) == runs
    assert store.finished() == {f"{0:016x}"}
    assert store.skipped == {}
    assert list(tmp_path.glob("**/.petlbench-tmp-*")) == []


FOREIGN = {
    "no_id": {"schema": 1},
    "cut": '{"schema": 1, "id',
    "list": [],
    "number": 3,
    "other": {"epochs": 3},
    "deep": "[" * 100_000,
    "nested": '{"schema": 1, "notes": ' + '{"a": ' * 60 + "1" + "}" * 61,
    "bytes": b"\xff\xfe",
    "empty": "",
    "long": "1" * 5000,
    "later": run(9, schema=2),
    "flag": run(9, schema=True),
    "text": run(9, schema="1"),
    "done": run(9, status="done"),
    "unhashable": run(9, status=["finished"]),
    "no_factors": run(9, factors=None),
    "seed": run(9, factors={"method": "a", "backbone": "b", "task": "c", "draw": 0, "seed": "x"}),
    "nan": run(9, scores={"test": {"top1": float("nan"), "correct": 1, "total": 2}}),
    "infinite": json.dumps(run(9)).replace('"train_s": 10.0', '"train_s": 1e999'),
    "wrong_ratio": run(9, scores={"test": {"top1": 51.0, "correct": 1, "total": 2}}),
    "no_count": run(9, scores={"test": {"top1": 50.0}}),
    "no_images": run(9, scores={"test": {"top1": 0.0, "correct": 0, "total": 0}}),
    "too_many": run(9, scores={"test": {"top1": 150.0, "correct": 3, "total": 2}}),
    "flags": run(9, scores={"test": {"top1": 100.0, "correct": True, "total": True}}),
    "no_score": run(9, scores={}),
    "surrogate": run(9, title="\ud800"),
    "epochs": run(9, selection={"scores": {"val": {"1": 101.0}}}),
}


def foreign(folder: Path) -> list[Path]:
    """Files that are no record of this version, all kinds."""
    folder.mkdir(parents=True)
    for name, content in FOREIGN.items():
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (folder / f"{name}.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    (folder / "loop.json").symlink_to("loop.json")
    return [folder / f"{name}.json" for name in sorted(FOREIGN)]


def test_what_is_no_record_is_named_once_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.write(run(0))
    paths = foreign(tmp_path / "mini" / "digits" / "deep")
    assert [one["id"] for one in store.records()] == [f"{0:016x}"]
    assert store.finished() == {f"{0:016x}"}
    assert store.find(f"{0:016x}") is not None
    lines = [entry.getMessage() for entry in caplog.records]
    assert len(lines) == len(paths)
    for line, path in zip(lines, paths, strict=True):
        assert line.startswith("skipped: ")
        assert f"'{path}'" in line
        assert "\n" not in line


def deny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to list a folder, as the system does to users without permission; root has it."""
    listed = os.scandir

    def scandir(place: Any = ".") -> Any:
        if Path(place) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_without_permission_is_named_and_costs_its_own_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.write(run(0))
    store.write(run(1) | {"factors": run(1)["factors"] | {"task": "private/task"}})
    deny(tmp_path / "private", monkeypatch)
    assert [record["id"] for record in store.records()] == [run(0)["id"]]
    assert list(store.records())
    assert caplog.messages == [
        f"skipped: folder '{tmp_path / 'private'}' cannot be read (Permission denied)"
    ]
    assert list(Store(tmp_path / "new").records()) == []


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (report.main, ["table", "--out", "out", "--records"]),
        (state.main, ["--records"]),
        (contributed.main, ["check"]),
    ],
)
def test_records_without_permission_are_one_line(
    main: Callable[[list[str]], int],
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Store(tmp_path / "runs").write(run(0))
    deny(tmp_path / "runs", monkeypatch)
    assert main([*arguments, str(tmp_path / "runs")]) == 2
    told = capsys.readouterr().err
    assert f"'{tmp_path / 'runs'}' cannot be read (Permission denied); give this user" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_reports_and_the_choice_of_values_skip_what_is_no_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign(tmp_path / "runs" / "x")
    score = {"val": {"top1": 50.0, "correct": 1, "total": 2}}
    Store(tmp_path / "runs").write(run(0, protocol="trial", scores=score))
    assert [one["id"] for one in read([tmp_path / "runs"])] == [f"{0:016x}"]
    assert choose.main(["--records", str(tmp_path / "runs"), "--values", "train.lr"]) == 0
    assert "0.01" in capsys.readouterr().out


@pytest.mark.parametrize("better", [run(0), run(0, schema=2), run(0, None, schema=2)])
def test_a_worse_record_never_replaces_a_better_one(better: Record, tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.path(better)
    write(better, path)
    before = path.read_bytes()
    for status in STATUSES[1:]:
        assert store.write(run(0, None, status=status)) == path
    assert path.read_bytes() == before
    if better["schema"] > 1:
        assert store.write(run(0)) == path
        assert path.read_bytes() == before
        with pytest.raises(UserError, match="has schema 2, this petlbench writes 1"):
            store.check_replaceable(run(0))


@pytest.mark.parametrize("worse", ["{", "[]", json.dumps(run(0, None)), json.dumps(run(0))])
def test_a_finished_record_replaces_what_is_no_better(worse: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.path(run(0))
    path.parent.mkdir(parents=True)
    path.write_text(worse)
    store.check_replaceable(run(0))
    store.write(run(0, 60.0))
    assert [one["scores"]["test"]["top1"] for one in store.records()] == [60.0]


def test_a_finished_record_of_another_label_is_kept_too(tmp_path: Path) -> None:
    store, labelled = Store(tmp_path), run(0)
    labelled["factors"]["method"] = "mine"
    path = store.write(labelled)
    assert store.write(run(0, None)) == path
    assert [one["status"] for one in store.records()] == ["finished"]


def test_the_delta_of_a_failed_run_is_removed_and_that_of_a_finished_one_kept(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    for one in (run(0), run(1, None)):
        delta = store.path(one, ".safetensors")
        write_atomically(delta, b"tensors")
        store.write(one)
        assert delta.exists() == (one["status"] == "finished")
    store.write(run(0, None))
    assert store.path(run(0), ".safetensors").exists()


def test_two_processes_that_end_together_leave_the_finished_record(tmp_path: Path) -> None:
    for seed in range(20):
        both = [partial(Store(tmp_path).write, run(seed, top1)) for top1 in (None, 50.0)]
        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(lambda write: write(), both))
    assert len(Store(tmp_path).finished()) == 20


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    folder.mkdir()
    with temporary_file(folder) as alive:
        for name in (f"{OWN_TEMPORARY}a", f"{OWN_TEMPORARY}b"):
            (folder / name).write_text("")
        (folder / f"{OWN_TEMPORARY}folder").mkdir()
        os.mkfifo(folder / f"{OWN_TEMPORARY}pipe")
        Store(tmp_path).clean()
        assert Path(alive.name).exists()
        assert sorted(path.name for path in folder.glob(f"{OWN_TEMPORARY}?")) == []
        (folder / f"{OWN_TEMPORARY}c").write_text("")
        write_atomically(folder / "new.json", b"{}")
        assert not (folder / f"{OWN_TEMPORARY}c").exists()
        assert Path(alive.name).exists()
    assert not Path(alive.name).exists()


def test_files_of_a_run_that_could_not_be_stored_are_removed_but_beside_a_finished_one(
    tmp_path: Path,
) -> None:
    store, files = Store(tmp_path), []
    for top1, is_kept in ((None, False), (50.0, True)):
        own = run(3, top1)
        store.write(own)
        files = [store.path(own, suffix) for suffix in (DELTA, PREDICTIONS)]
        for file in files:
            file.touch()
        store.discard(own)
        assert [file.exists() for file in files] == [is_kept, is_kept]


def test_a_folder_that_another_process_removes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the folder of claims between its listing and its reading."""
    gone = tmp_path / ".claims"
    left = tmp_path / "mini" / f"{OWN_TEMPORARY}a"
    left.parent.mkdir()
    left.write_text("")
    scandir = os.scandir

    def removing(place: str | Path) -> Any:
        if Path(place).name == gone.name:
            os.rmdir(place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", removing)
    for clean in (Store(tmp_path).clean, partial(remove_abandoned, gone)):
        gone.mkdir()
        clean()
        assert not gone.exists()
    assert not left.exists()


def test_files_of_other_programs_and_machines_stay(tmp_path: Path) -> None:
    """A file system may keep the locks of a machine to itself."""
    foreign = tmp_path / "app" / ".tmp-checkpoint"
    other = tmp_path / "mini" / f"{TEMPORARY}another-1"
    for path in (foreign, other):
        path.parent.mkdir()
        path.write_text("")
    Store(tmp_path).clean()
    assert foreign.exists()
    assert other.exists()
    long_ago = time.time() - 2 * ABANDONED_S
    for path in (foreign, other):
        os.utime(path, (long_ago, long_ago))
    Store(tmp_path).clean()
    assert foreign.exists()
    assert not other.exists()


def test_a_run_is_found_only_where_records_are_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.write(run(0))
    assert store.find(f"{0:016x}") == path
    path.parents[1].rename(tmp_path / ".old")
    assert store.finished() == set()
    assert store.find(f"{0:016x}") is None


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    blocked = tmp_path / "a.json" / "b.json"
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(blocked, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_others_may_read_what_is_written_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    write_atomically(tmp_path / "a.json", b"")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_record_keeps_no_folder_of_the_machine() -> None:
    made = config() | {"results": {"root": "/a"}, "data": {"root": "/b"}}
    assert placeless(made) == made | {"dataset": {"name": "digits"}, "results": {}, "data": {}}
    assert made["dataset"]["cache"] == "/a"


def test_a_record_is_one_json_document(tmp_path: Path) -> None:
    path = Store(tmp_path).write(run(3))
    assert json.loads(path.read_text())["factors"]["seed"] == 3
    assert path.relative_to(tmp_path).parts[:2] == ("mini", "digits")


def test_a_folder_under_a_file_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"results\.root"):
        Store(tmp_path / "file" / "runs").check_writable()


@cache
def defaults(method: str, protocol: str) -> dict[str, Any]:
    """The values of a run today, for keys that a record lacks."""
    return compose.single([f"method={method}", f"protocol={protocol}"]).plain()


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(under[key], over[key]) for key in under if isinstance(over.get(key), dict)}
    return under | over | both


def committed() -> list[dict[str, Any]]:
    return list(Store(MEASURED).records())


# Keys that came later and change what a run computes: another run than the committed one.
CHANGED = {"vqt": {"embedding_dropout"}}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_committed_records_keep_their_identity(every: bool) -> None:
    """Keys that came later are at their neutral values, and renamed classes have first names.

    every: compare each record with the values of today, not the first of a method alone.
    """
    seen, kinds = 0, set()
    for record in committed():
        config = record["config"]
        assert identity(config) == record["id"]
        seen += 1
        kind = (record["factors"]["method"], record["protocol"], record["suite"])
        if "multitask" in record["cost"]:
            continue  # it has no task, and no default of its own
        if kind in kinds and not every:
            continue
        kinds.add(kind)
        own = [key for key in IDENTITY if key in config]
        method = record["factors"]["method"]
        known = first_form(defaults(method, record["protocol"]))
        changed = CHANGED.get(method, set())
        known["method"] = {k: v for k, v in known["method"].items() if k not in changed}
        today = {key: known[key] for key in own if known.get(key) is not None}
        if record["suite"] == "folder":
            del today["dataset"]  # the default is a task of another reader
        assert identity(merged(today, {key: config[key] for key in own})) == record["id"]
    assert seen > 700
    assert len(kinds) > 100


def test_the_configuration_of_today_names_the_committed_runs() -> None:
    """The typed values hash as those of the first records did: 0.0 is not 0."""
    finished = {record["id"] for record in committed()}
    for method in ("linear", "lora", "dtl_plus_star", "noah", "fact_tk"):
        for task in ("mini/land", "mini/digits"):
            config = compose.single([f"method={method}", f"dataset={task}", "seed=1"])
            assert identity(config.plain()) in finished
    probe = compose.single(["protocol=probe", "method=dtl", "backbone=vit_b16", "device=cpu"])
    assert identity(probe.plain()) in finished


def test_a_renamed_class_is_hashed_under_its_first_name_and_built_under_todays() -> None:
    node = {"_target_": "petlbench.data.readers.vtab.load", "name": "cifar"}
    first = first_form({"dataset": node})["dataset"]
    assert first == {"_target_": "petlbench.data.vtab.load", "name": "cifar"}
    assert current_name(first) == node


def test_a_method_of_an_earlier_delta_is_built_by_todays_class() -> None:
    """LoRA had a form and an init, which two methods are now."""
    former = {"_target_": "petlbench.methods.lora.LoRA", "rank": 8}
    own = current_name(former | {"form": "qv", "init": "zero_up"})
    noah = current_name(former | {"form": "qkv_shared", "init": "noah"})
    assert own == former
    assert noah == former | {"_target_": "petlbench.methods.lora_noah.NOAHLoRA"}
    assert current_name(former) == former


def test_a_completed_configuration_leaves_that_of_the_record_as_it_is() -> None:
    before = config()
    whole = completed(before)
    assert before == config()
    assert whole["train"]["schedule"]["cosine_from"] == 0


def test_the_wrong_values_of_a_record_are_named_in_the_order_of_its_checks() -> None:
    run = records.record("lora", "digits", 90.0)
    assert broken(run) == []
    run["cost"] = {"train_s": "x", "inference": [{"batch": 1}, {"batch": 1.5}], "saved_mb": 1e999}
    run["provenance"]["splits"]["test"] = {"sha256": None}
    run["id"], run["notes"] = 3, {"a": ["\ud800", {"b": float("nan")}]}
    assert broken(run) == [
        *("id", "cost.saved_mb", "cost.train_s", "cost.inference.1.batch"),
        *("provenance.splits.test.sha256", "notes.a.0", "notes.a.1.b"),
    ]


def test_numbers_that_no_float_can_hold_are_wrong_in_long_lists_too() -> None:
    run = records.record("lora", "digits", 90.0)
    for odd in (1e999, -1e999, 10**400, "\udc00"):
        run["curve"] = {"loss": [0.5] * 100 + [odd]}
        assert broken(run) == ["curve.loss.100"], odd
    deep: list[Any] = []
    for _ in range(DEEPEST):
        deep = [deep]
    run["curve"] = {"loss": deep}
    assert len(broken(run)) == 1


def test_a_record_names_the_commit_of_a_checkout() -> None:
    if not (Path(__file__).parent.parent / ".git").exists():
        pytest.skip("no checkout")
    assert re.fullmatch("[0-9a-f]{12}(-dirty)?", str(provenance.versions()["commit"]))
