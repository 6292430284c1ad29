"""Where sweeps and single runs keep their records, and what they find there."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from petlbench.method import Method
from petlbench.run import training
from petlbench.run.claims import Claims
from petlbench.run.record import Record, Store
from petlbench.sweep import perform
from petlbench.sweep.launchers import basic
from tests.command import run
from tests.shallow import OVERRIDES
from tests.trees import paint

SLOW = pytest.mark.slow


def known_to_others(given: list[str]) -> list[str]:
    """With vit_mini: other processes do not know the network of a test."""
    return [text for text in given if text not in OVERRIDES]


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """A task of twenty small images that a linear head learns in a second."""
    for number in range(20):
        paint(tmp_path / "pets" / "cd"[number % 2] / f"{number}.png", number)
    return [
        *("dataset=folder", "dataset.root=pets", f"dataset.cache={tmp_path / 'cache'}"),
        *("method=linear", "train.epochs=1", "train.batch_size=4", "device=cpu"),
        *OVERRIDES,
    ]


def times(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.glob("**/*.json")}


@pytest.mark.parametrize(
    ("roots", "names"), [("a,b", ("a", "b")), ("'r_${seed}'", ("r_0", "r_1"))]
)
def test_each_results_root_is_looked_at(
    roots: str, names: tuple[str, str], given: list[str], tmp_path: Path
) -> None:
    seeds = "0,1" if "seed" in roots else "0"
    sweep = ["-m", *given, f"results.root={roots}", f"seed={seeds}"]
    code, told = run(tmp_path, *sweep)
    assert code == 0, told
    assert "plan: 2 runs, 0 finished (skipped), 2 to run" in told
    assert f"records: {names[0]}, {names[1]}" in told
    assert [len(list(Store(tmp_path / name).records())) for name in names] == [1, 1]
    before = [times(tmp_path / name) for name in names]
    code, told = run(tmp_path, *sweep)
    assert "plan: 2 runs, 2 finished (skipped), 0 to run" in told
    assert [times(tmp_path / name) for name in names] == before
    for path in before[1]:
        Path(path).unlink()
    code, told = run(tmp_path, *sweep)
    assert "plan: 2 runs, 1 finished (skipped), 1 to run" in told
    assert (code, times(tmp_path / names[0])) == (0, before[0])


def test_one_folder_under_several_names_is_one(given: list[str], tmp_path: Path) -> None:
    code, told = run(tmp_path, "-m", *given, "results.root=a,./a,a/")
    assert code == 0, told
    assert "plan: 1 run, 0 finished (skipped), 1 to run" in told
    assert told.count("records: a\n") == 1
    [path] = (tmp_path / "a").glob("**/*.json")
    path.unlink()
    path.mkdir()  # found before training, not after it
    code, told = run(tmp_path, *given, "results.root=a")
    assert (code, f"record '{path.relative_to(tmp_path)}' is a folder" in told) == (2, True), told


def test_foreign_files_stop_neither_a_sweep_nor_a_run(given: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "results" / "runs" / "folder" / "pets"
    folder.mkdir(parents=True)
    for name, text in {"a": '{"schema": 1}', "b": "{oops", "c": "[]", "d": "[" * 99999}.items():
        (folder / f"{name}.json").write_text(text)
    code, told = run(tmp_path, "-m", *given)
    assert code == 0, told
    assert [
        told.count(f"skipped: record '{folder.relative_to(tmp_path)}/{n}.json'") for n in "abd"
    ] == [1] * 3
    assert "Traceback" not in told
    [path] = folder.glob("*-seed0-*.json")
    path.write_text(path.read_text()[:-9])
    code, told = run(tmp_path, *given)
    assert code == 0, told
    assert f"skipped: record '{path.relative_to(tmp_path)}' cannot be read" in told
    assert json.loads(path.read_text())["status"] == "finished"


def test_a_run_that_another_process_finished_meanwhile_is_not_repeated(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ["-m", *given, "seed=0,1"]
    run(tmp_path, *sweep, "results.root=other")
    done = {record["id"]: record for record in Store(tmp_path / "other").records()}
    execute = perform.execute
    store = Store(tmp_path / "mine")

    def meanwhile(*arguments: object) -> Record | None:
        for record in done.values():
            store.write(record)
        return execute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(perform, "execute", meanwhile)
    monkeypatch.setattr(training, "_fill", lambda run: pytest.fail("repeated"))
    code, told = run(tmp_path, *sweep, "results.root=mine")
    assert (code, told.count("finished meanwhile: mine/folder/pets/")) == (0, 2), told
    assert {record["id"]: record for record in store.records()} == done


@pytest.mark.parametrize("flags", [[], ["-m", "seed=0,1"]])
def test_a_bug_leaves_the_finished_record(
    flags: list[str], given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, *given)
    before = times(tmp_path / "results")
    monkeypatch.setattr(Method, "forward", lambda *_: 1 / 0)
    code, told = run(tmp_path, *flags, *given)
    assert code == 1, told
    assert "ZeroDivisionError" in told
    assert before.items() <= times(tmp_path / "results").items()


def test_a_record_of_a_later_version_is_refused_before_training(
    given: list[str], tmp_path: Path
) -> None:
    run(tmp_path, *given)
    [path] = (tmp_path / "results").glob("**/*.json")
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    text = path.read_text()
    code, told = run(tmp_path, *given)
    assert code == 2, told
    assert "has schema 2, this petlbench writes 1; use the version that wrote it" in told
    code, told = run(tmp_path, "-m", *given)
    assert code == 1, told
    assert "failed: linear folder/pets seed 0: record" in told
    assert path.read_text() == text


# tests/test_launchers.py has several workers, which take seconds only where they import torch
@pytest.mark.parametrize(("workers", "runs"), [(1, 2), pytest.param(2, 3, marks=SLOW)])
def test_a_sweep_of_workers_equals_one_without(
    workers: int, runs: int, given: list[str], tmp_path: Path
) -> None:
    local = ("hydra/launcher=local", f"hydra.launcher.workers={workers}")
    sweep = ["-m", *known_to_others(given), f"seed=range({runs})"]
    code, told = run(tmp_path, *sweep, "results.root=a", *local)
    assert code == 0, told
    assert told.splitlines()[0] == f"plan: {runs} runs, 0 finished (skipped), {runs} to run"
    ended = [line.split()[0] for line in told.splitlines()[2 : 2 + runs]]
    assert ended == [f"[{number + 1}/{runs}" for number in range(runs)]
    run(tmp_path, *sweep, "results.root=b")
    deltas = sorted((tmp_path / "b").glob("**/*.safetensors"))
    assert len(deltas) == runs
    for path in deltas:
        twin = tmp_path / "a" / path.relative_to(tmp_path / "b")
        assert twin.read_bytes() == path.read_bytes()
        assert "epoch 1/1 loss" in twin.with_suffix(".log").read_text()
    code, told = run(tmp_path, *sweep, "results.root=a", *local)
    plan = f"plan: {runs} runs, {runs} finished (skipped), 0 to run"
    assert (code, told.splitlines()[0]) == (0, plan)


def while_waiting(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Call act when a sweep waits for the runs of others, once its plan is told."""
    monkeypatch.setattr(basic, "time", SimpleNamespace(sleep=lambda _: act()))


def test_what_others_do_is_in_the_plan_and_is_awaited(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ["-m", *given, "results.root=a"]
    run(tmp_path, *sweep)
    [path] = (tmp_path / "a").glob("**/*-seed0-*.json")
    whole, identifier = path.read_text(), json.loads(path.read_text())["id"]
    path.unlink()
    claim = Claims(tmp_path / "a").take(identifier)
    assert claim is not None

    def finish() -> None:
        path.write_text(whole)
        claim.release()

    while_waiting(monkeypatch, finish)
    code, told = run(tmp_path, *sweep)
    assert code == 0, told
    assert f"in work: 1 by process {os.getpid()} on {socket.gethostname()}" in told
    assert "finished meanwhile" in told
    assert path.read_text() == whole


def test_a_run_that_failed_elsewhere_is_reported_and_not_repeated(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ["-m", *given, "results.root=a"]
    run(tmp_path, *sweep)
    [path] = (tmp_path / "a").glob("**/*-seed0-*.json")
    content = json.loads(path.read_text())
    path.unlink()
    claim = Claims(tmp_path / "a").take(content["id"])
    assert claim is not None

    def fail() -> None:
        path.write_text(json.dumps(content | {"status": "diverged", "reason": "too hot"}))
        claim.release()

    while_waiting(monkeypatch, fail)
    code, told = run(tmp_path, *sweep)
    assert code == 1, told
    assert "diverged: linear folder/pets seed 0: too hot" in told
    # the next sweep tries it again
    code, told = run(tmp_path, *sweep)
    assert (code, json.loads(path.read_text())["status"]) == (0, "finished")


@pytest.mark.slow
def test_joblib_gets_the_runs_as_overrides(given: list[str], tmp_path: Path) -> None:
    pytest.importorskip(
        "hydra_plugins.hydra_joblib_launcher", reason="needs hydra-joblib-launcher"
    )
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    sweep = ["-m", *known_to_others(given), "seed=0,1,2", *joblib]
    code, told = run(tmp_path, *sweep)
    assert (code, told.count(" ok=")) == (0, 3), told
    code, told = run(tmp_path, *sweep)
    assert (code, told.splitlines()[0]) == (0, "plan: 3 runs, 3 finished (skipped), 0 to run")
