"""hydra/launcher=ray: with Ray on loopback."""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from petlbench.errors import UserError
from petlbench.run.claims import Claims
from petlbench.sweep.launchers import cluster, gpus, ray
from petlbench.sweep.launchers.ray import Ray
from tests.assignments import runs
from tests.launched import execute
from tests.processes import interrupt_when_two_run

SLOW = pytest.mark.slow


def launcher(**settings: Any) -> Ray:
    given = {"address": None, "gpus_per_run": 1.0, "cpus_per_run": 1, "retries": 1}
    return Ray(**(given | settings))


def needs_ray() -> None:
    # not by an import: the launcher sets what Ray reads when it is imported
    if find_spec("ray") is None:
        pytest.skip("needs ray: pip install 'petlbench[ray]'")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_ray()
    monkeypatch.setattr(gpus, "visible", lambda: ["0", "1"])
    monkeypatch.setattr(gpus, "memory_mib", lambda: 1024.0)
    monkeypatch.setattr(ray, "cpu_count", lambda: 2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray keeps its files; empty at the end."""
    with tempfile.TemporaryDirectory(prefix="r") as short:  # sockets have short paths
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield Path(short)
        assert list(Path(short).glob("petlbench-ray-*")) == []


# A run that never succeeds ends in the same way with every launcher: tests/test_launchers.py.
@pytest.mark.usefixtures("two_gpus", "folder")
@pytest.mark.parametrize(
    ("number", "what"),
    [(3, ["killed once"]), pytest.param(6, ["killed once", "always killed"], marks=SLOW)],
)
def test_each_run_ends_and_workers_that_are_killed_cost_one(
    number: int,
    what: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = runs(tmp_path, number, *what, device="auto")
    foreign = f"{number - 1:016x}"
    claim = Claims(tmp_path).take(foreign)  # of another process
    assert claim is not None
    used = launcher(gpus_per_run=0.5)
    used.check([each.planned for each in work])
    found = {}
    for run, record in used.launch(work, execute):
        found[run.id] = record
        if len(found) == number - 1:
            claim.release()
    assert len(found) == number
    for place in range(1, len(what)):
        lost = found.pop(f"{place:016x}")
        assert lost["status"] == "failed"
        assert "its worker ended 2 times (WorkerCrashedError: The worker died" in lost["reason"]
    assert {record["status"] for record in found.values()} == {"finished"}
    assert {record["gpu"] for record in found.values()} <= {"0", "1"}
    assert len({record["pid"] for record in found.values()}) == len(found)  # none used CUDA before
    assert {record["processors"] for record in found.values()} == {"1"}
    assert list(found)[-1] == foreign
    tries = Counter(path.name[:16] for path in tmp_path.glob("*-*"))
    assert tries == {f"{place:016x}": 1 + (place < len(what)) for place in range(number)}
    assert caplog.text.count("once more") == len(what)
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.usefixtures("two_gpus", "folder")
def test_an_interrupt_ends_the_tasks_and_releases_their_claims(tmp_path: Path) -> None:
    work = runs(tmp_path, 4, "long", "long")
    used = launcher()
    used.check([each.planned for each in work])
    with interrupt_when_two_run(tmp_path):
        list(used.launch(work, execute))
    assert Claims(tmp_path).owners() == {}
    import ray as engine

    assert not engine.is_initialized()


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("settings", "device", "found", "message"),
    [
        ({"cpus_per_run": 3}, "auto", ["0"], "cpus_per_run=3 with 1 GPUs fits on no node of Ray"),
        ({}, "cuda", [], "device=cuda, and no node of Ray has a GPU"),
    ],
)
def test_what_no_node_has_is_refused(
    settings: dict[str, Any],
    device: str,
    found: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs_ray()
    monkeypatch.setattr(gpus, "visible", lambda: found)
    monkeypatch.setattr(ray, "cpu_count", lambda: 2)
    with pytest.raises(UserError, match=message):
        launcher(**settings).check([each.planned for each in runs(tmp_path, 1, device=device)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": ""}, "hydra.launcher.address is ''; it must be HOST:PORT or auto"),
        ({"gpus_per_run": 1.5}, "gpus_per_run is 1.5; a run uses one GPU at most"),
        ({"cpus_per_run": 0}, "hydra.launcher.cpus_per_run is 0"),
        ({"retries": -1}, "hydra.launcher.retries is -1"),
    ],
)
def test_impossible_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        launcher(**settings)


def test_without_ray_the_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs Ray; pip install 'petlbench\[ray\]'"):
        launcher().check([each.planned for each in runs(tmp_path, 1)])


def test_an_address_that_does_not_answer_is_refused_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_ray()
    monkeypatch.setattr(cluster, "ANSWER_S", 0.5)
    with pytest.raises(UserError, match=r"address=127.0.0.1:9: no answer within 0.5 s; start Ray"):
        launcher(address="127.0.0.1:9").check([each.planned for each in runs(tmp_path, 1)])


def test_a_node_names_the_folder_that_it_does_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SEEN_S", 0.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").touch()
    seen, unseen = str(tmp_path / "token"), str(tmp_path / "elsewhere" / "token")
    assert cluster._unseen(str(tmp_path), [seen]) is None
    assert cluster._unseen(str(tmp_path), [seen, unseen]) == str(tmp_path / "elsewhere")
    assert cluster._unseen(str(tmp_path / "none"), [seen]) == str(tmp_path / "none")
