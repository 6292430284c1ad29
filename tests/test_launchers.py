"""Launchers: every run once, whatever happens to workers; and where they work."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.plugins.launcher import Launcher as HydraLauncher
from omegaconf import OmegaConf

from petlbench.config import compose
from petlbench.config.construct import composable
from petlbench.config.schema import Settings
from petlbench.cost import forecast
from petlbench.data import feed
from petlbench.errors import UserError
from petlbench.run import once
from petlbench.run.claims import Claims
from petlbench.run.lifecycle import blank
from petlbench.run.once import record_signature
from petlbench.run.record import Record, Store
from petlbench.sweep import conduct, perform
from petlbench.sweep.launchers import basic, engine, foreign, gpus, local, ray, room
from petlbench.sweep.launchers.basic import Basic
from petlbench.sweep.launchers.foreign import Foreign
from petlbench.sweep.launchers.launcher import Assignment
from petlbench.sweep.launchers.local import Local
from petlbench.sweep.plan import TO_RUN, Planned
from petlbench.system import cpu_count
from tests.assignments import runs
from tests.launched import execute
from tests.processes import interrupt_when_two_run
from tests.records import record


def workers(number: int | str = 2, share: float = 1.0, threads: int | str = 1) -> Local:
    return Local(workers=number, gpus_per_run=share, threads=threads)


def launched(launcher: Local, assignments: list[Assignment]) -> dict[str, Record]:
    return {run.id: record for run, record in launcher.launch(assignments, execute)}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "visible", list)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: ["0", "1", "5", "7"])
    monkeypatch.setattr(gpus, "memory_mib", lambda: 1024.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (engine, basic):
        monkeypatch.setattr(module, "POLL_S", 0.1)


def test_workers_that_are_killed_cost_no_run(tmp_path: Path) -> None:
    found = launched(workers(3), runs(tmp_path, 38, *["killed once"] * 10))
    assert len(found) == 38
    assert {record["status"] for record in found.values()} == {"finished"}
    tries = Counter(path.name[:16] for path in tmp_path.glob("*-*"))
    assert Counter(tries.values()) == {1: 28, 2: 10}
    assert not multiprocessing.active_children()


def test_a_run_that_kills_its_worker_twice_has_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = launched(workers(2), runs(tmp_path, 4, "always killed"))
    lost = found[f"{0:016x}"]
    assert lost["status"] == "failed"
    assert lost["reason"] == "its worker ended 2 times (signal 9); memory may be short"
    assert Counter(record["status"] for record in found.values())["finished"] == 3
    assert caplog.text.count("its worker ended (signal 9); once more") == 1
    assert len(list(tmp_path.glob("**/*.json"))) == 1  # the record of the failure


def test_random_kills_from_outside_cost_no_run(tmp_path: Path) -> None:
    killed, done = 0, threading.Event()

    def kill() -> None:
        nonlocal killed
        while not done.wait(0.15) and killed < 5:
            for child in multiprocessing.active_children()[:1]:
                os.kill(child.pid or 0, signal.SIGKILL)
                killed += 1

    killer = threading.Thread(target=kill)
    killer.start()
    found = launched(workers(2), runs(tmp_path, 60))
    done.set()
    killer.join()
    assert len(found) == 60
    assert killed >= 1


def test_an_error_that_no_run_survives_ends_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no later run could be recorded"):
        launched(workers(2), runs(tmp_path, 8, "fails"))
    assert not multiprocessing.active_children()


def test_an_interrupt_ends_the_workers_and_releases_their_claims(tmp_path: Path) -> None:
    with interrupt_when_two_run(tmp_path):
        launched(workers(2), runs(tmp_path, 4, "long", "long"))
    assert not multiprocessing.active_children()
    assert Claims(tmp_path).owners() == {}


@pytest.mark.parametrize("launcher", [Basic(), workers(2)], ids=["basic", "local"])
def test_runs_of_other_processes_are_awaited(
    launcher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    claim = Claims(tmp_path).take(f"{1:016x}")
    assert claim is not None
    threading.Timer(1.0, claim.release).start()
    started = time.monotonic()
    ended = [run.id for run, _ in launcher.launch(runs(tmp_path, 5), execute)]
    assert time.monotonic() - started >= 1.0
    assert sorted(ended) == [f"{place:016x}" for place in range(5)]
    assert ended[-1] == f"{1:016x}"
    assert {len(list(tmp_path.glob(f"{name}-*"))) for name in ended} == {1}


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("number", "share", "expected"),
    [
        ("auto", 1.0, {"0": 1, "1": 1, "5": 1, "7": 1}),
        ("auto", 0.5, {"0": 2, "1": 2, "5": 2, "7": 2}),
        (2, 1.0, {"0": 1, "1": 1}),
        (6, 0.1, {"0": 2, "1": 2, "5": 1, "7": 1}),
    ],
)
def test_each_worker_has_its_gpu(
    number: int | str, share: float, expected: dict[str, int], tmp_path: Path
) -> None:
    assignments = runs(tmp_path, 12, device="auto")
    places = workers(number, share)._places([each.planned for each in assignments])
    assert Counter(places) == expected


@pytest.mark.usefixtures("four_gpus")
def test_a_worker_sees_its_gpu_alone(tmp_path: Path) -> None:
    found = launched(workers(2), runs(tmp_path, 8, device="cuda"))
    assert {record["gpu"] for record in found.values()} <= {"0", "1"}
    by_worker = {(record["pid"], record["gpu"]) for record in found.values()}
    assert len({pid for pid, _ in by_worker}) == len(by_worker)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("number", "threads", "given", "expected"),
    [
        ("auto", "auto", None, 8),
        ("auto", 4, None, 2),
        (3, "auto", None, 3),
        ("auto", "auto", "2", 4),
    ],
)
def test_without_a_gpu_workers_share_the_processors(
    number: int | str,
    threads: int | str,
    given: str | None,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    planned = [each.planned for each in runs(tmp_path, 1)]
    assert workers(number, threads=threads)._places(planned) == [None] * expected


@pytest.mark.usefixtures("no_gpu")
def test_workers_share_the_processors_whatever_their_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each starts as many processes for augmentation as it has processors."""
    monkeypatch.setattr(local, "cpu_count", lambda: 8)
    found = launched(workers(2, threads=1), runs(tmp_path, 2))
    assert {(r["processors"], r["threads"]) for r in found.values()} == {("4", "1")}
    monkeypatch.setenv("PETLBENCH_PROCESSORS", "4")
    assert (cpu_count(), feed._processes("auto")) == (4, 4)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("settings", "device", "message"),
    [
        ({"workers": 5}, "auto", r"workers=5 with gpus_per_run=1 needs 5 GPUs; torch finds 4"),
        ({"workers": 9, "gpus_per_run": 0.5}, "cuda", "needs 5 GPUs; torch finds 4"),
        ({}, "cuda:1", "device=cuda:1 names one GPU and the launcher chooses them"),
        ({"workers": 0}, "auto", "hydra.launcher.workers is 0; it must be a whole number of at"),
        ({"workers": "many"}, "auto", "hydra.launcher.workers is many"),
        ({"threads": -1}, "auto", "hydra.launcher.threads is -1"),
        ({"gpus_per_run": 0}, "auto", "hydra.launcher.gpus_per_run is 0"),
        ({"gpus_per_run": 2}, "auto", "gpus_per_run is 2; a run uses one GPU at most"),
    ],
)
def test_impossible_settings_are_one_line(
    settings: dict[str, Any], device: str, message: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"workers": "auto", "gpus_per_run": 1.0, "threads": "auto"} | settings
    with pytest.raises(UserError, match=message):
        Local(**given).check([each.planned for each in runs(tmp_path, 1, device=device)])


@pytest.mark.usefixtures("four_gpus")
def test_runs_that_do_not_fit_into_their_share_of_a_gpu_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [each.planned for each in runs(tmp_path, 2, device="auto")]
    predicted, predict = [], forecast.peak_mib

    def noted(*given: Any, **named: Any) -> dict[str, Any]:
        predicted.append(given)
        return predict(*given, **named)

    monkeypatch.setattr(forecast, "peak_mib", noted)
    monkeypatch.setattr(room, "_PEAKS", {})
    monkeypatch.setattr(gpus, "memory_mib", lambda: 100.0)
    workers("auto", 0.25).check(planned)
    line = (
        "lora fake/bright seed 0 takes 0.02 GiB at its predicted peak; gpus_per_run=0.1 of a GPU "
        "with 0.10 GiB is 0.01 GiB; set hydra.launcher.gpus_per_run=0.21"
    )
    with pytest.raises(UserError, match=line):
        workers("auto", 0.1).check(planned)
    monkeypatch.setattr(gpus, "memory_mib", lambda: 10.0)
    with pytest.raises(UserError, match=r"it fits on no GPU; set a smaller train\.batch_size"):
        workers("auto", 0.1).check(planned)
    monkeypatch.setattr(gpus, "memory_mib", None)
    workers("auto", 1.0).check(planned)  # alone; CUDA is not asked
    assert len(predicted) == 1


def test_a_method_without_training_steps_has_no_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "_PEAKS", {})
    config = compose.single(["method=logistic", "dataset=mini/digits", "device=auto"])
    room.check([Planned(config, "0", TO_RUN)], 0.1, lambda: 0.001)
    assert caplog.text == ""


class Elsewhere(HydraLauncher):
    """Stands for a launcher of Hydra: does every second run, then loses its cluster."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.got: list[list[str]] = []

    def setup(self, **_: Any) -> None:
        """Nothing."""

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        self.got = [list(each) for each in job_overrides]
        Store(self.root).write(self.record)
        raise ConnectionError("the cluster is\ngone")

    record: Record


def test_the_store_says_what_a_launcher_of_hydra_has_not_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (
        replace(each, planned=replace(each.planned, overrides=(f"seed={place}",)))
        for place, each in enumerate(runs(tmp_path, 2))
    )
    settings = first.planned.config
    first = replace(first, planned=replace(first.planned, id=blank(settings)["id"]))
    launcher = Elsewhere(tmp_path)
    launcher.record = record("lora", "land", 78.0) | {
        "id": first.planned.id,
        "factors": blank(settings)["factors"],
    }
    found = [ended for _, ended in Foreign(launcher).launch([first, second], execute)]
    assert launcher.got == [["seed=0"], ["seed=1"]]
    assert [each["status"] for each in found] == ["finished", "failed"]
    assert found[1]["reason"] == "Elsewhere has left no record of it"
    # another process has done the first one before this launcher could
    done = replace(first, seen=record_signature(settings, first.planned.id))
    [(_, again)] = Foreign(launcher).launch([done], execute)
    assert (again["id"], again["status"]) == (first.planned.id, "finished")
    assert "Elsewhere: ConnectionError: the cluster is gone" in caplog.text


def test_configurations_can_be_sent_to_other_processes() -> None:
    twin = composable(Settings)
    assert pickle.loads(pickle.dumps(twin)) is twin


class OnACluster(Basic):
    """Stands for a launcher whose runs are done on other machines."""

    is_here = False


def test_what_this_machine_lacks_matters_only_for_runs_that_are_done_here(tmp_path: Path) -> None:
    [planned] = [each.planned for each in runs(tmp_path, 1, device="cuda:7")]
    with pytest.raises(UserError, match="device is cuda:7; torch finds 0 GPUs"):
        conduct.check([planned], Basic(), dry_run=False)
    conduct.check([planned], OnACluster(), dry_run=False)


def test_a_run_of_a_launcher_of_hydra_waits_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [assignment] = runs(tmp_path, 1)
    answers = [None, None, {"status": "finished"}]
    monkeypatch.setattr(perform, "execute", lambda assignment: answers.pop(0))
    monkeypatch.setattr(once, "POLL_S", 0.0)
    monkeypatch.setattr(compose, "finish", lambda *_: assignment.planned.config)
    now = SimpleNamespace(runtime=SimpleNamespace(choices={}))
    monkeypatch.setattr(foreign, "HydraConfig", SimpleNamespace(get=lambda: now))
    foreign.run_composed(OmegaConf.create())
    assert answers == []


def test_where_launchers_do_runs() -> None:
    assert workers().is_here
    assert not Foreign.is_here
    for address, is_here in ((None, True), ("auto", False)):
        made = ray.Ray(address=address, gpus_per_run=1.0, cpus_per_run=1, retries=0)
        assert made.is_here == is_here
