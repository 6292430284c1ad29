"""hydra/launcher=slurm: without Slurm, and with one of a single node where it is installed."""

import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from petlbench.errors import UserError
from petlbench.run.claims import Claims
from petlbench.run.record import Record
from petlbench.sweep.launchers import engine, gpus, jobs
from petlbench.sweep.launchers.launcher import Assignment
from petlbench.sweep.launchers.slurm import Slurm
from petlbench.system import cpu_count
from tests import slurm_node
from tests.assignments import runs
from tests.launched import execute
from tests.processes import interrupt_when_two_run

GIVEN: dict[str, Any] = {
    "cluster": "slurm",
    "partition": None,
    "account": None,
    "gpus_per_run": 0,
    "cpus_per_run": 1,
    "mem_gb": None,
    "timeout_min": 10,
    "array_parallelism": 2,
    "wait": True,
    "retries": 1,
    "setup": [],
    "parameters": {},
}


def launched(work: Sequence[Assignment], **settings: Any) -> dict[str, Record]:
    launcher = Slurm(**(GIVEN | settings))
    launcher.check([each.planned for each in work])
    return {run.id: record for run, record in launcher.launch(work, execute)}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "POLL_S", 0.2)
    monkeypatch.setattr(jobs, "QUEUE_S", 0.5)
    monkeypatch.setattr(jobs, "GRACE_S", 1.0)


@pytest.fixture
def submitit() -> None:
    pytest.importorskip("submitit", reason="needs submitit: pip install 'petlbench[slurm]'")


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    with slurm_node.running():
        yield


@pytest.mark.usefixtures("submitit")
def test_processes_of_this_machine_stand_for_jobs(tmp_path: Path) -> None:
    found = launched(runs(tmp_path, 4, "always killed", "killed once"), cluster="local")
    check_kills(found, tmp_path, 4)
    assert "ended 2 times (its job" in found[f"{0:016x}"]["reason"]
    assert {found[f"{place:016x}"]["processors"] for place in (1, 2, 3)} == {"1"}


@pytest.mark.usefixtures("submitit")
def test_processes_of_this_machine_take_turns_on_the_first_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them get GPU 0 from submitit."""
    monkeypatch.setattr(gpus, "visible", lambda: ["0", "1"])
    planned = [each.planned for each in runs(tmp_path, 2, device="auto")]
    launcher = Slurm(**(GIVEN | {"cluster": "local", "gpus_per_run": 1}))
    assert (launcher.is_here, Slurm(**GIVEN).is_here) == (True, False)
    launcher.check(planned)
    assert launcher._places() == 1
    assert launcher._executor(tmp_path)._executor.parameters["gpus_per_node"] == 1
    monkeypatch.setattr(gpus, "visible", lambda: ["3"])
    with pytest.raises(UserError, match=r"uses GPU 0 alone, and CUDA_VISIBLE_DEVICES is 3; use"):
        launcher.check(planned)
    monkeypatch.setattr(gpus, "visible", list)
    free = Slurm(**(GIVEN | {"cluster": "local", "gpus_per_run": 1}))
    free.check(planned)
    assert free._places() == min(2, cpu_count())


@pytest.mark.slow
@pytest.mark.usefixtures("submitit", "node")
def test_jobs_of_slurm_that_vanish_are_noticed_without_accounting(tmp_path: Path) -> None:
    found = launched(
        runs(tmp_path, 6, "always killed", "killed once", device="auto"), gpus_per_run=1
    )
    check_kills(found, tmp_path, 6)
    gpus = {record.get("gpu") for record in found.values() if record["status"] == "finished"}
    assert gpus <= {"0", "1"}


def check_kills(found: dict[str, Record], root: Path, number: int) -> None:
    assert Counter(record["status"] for record in found.values()) == {
        "finished": number - 1,
        "failed": 1,
    }
    tries = Counter(path.name[:16] for path in root.glob("*-*"))
    assert tries == {f"{place:016x}": 2 if place < 2 else 1 for place in range(number)}


@pytest.mark.slow
@pytest.mark.usefixtures("submitit", "node")
def test_a_preempted_job_does_its_run_again(tmp_path: Path) -> None:
    def preempt() -> None:
        while not Claims(tmp_path).owners():
            time.sleep(0.05)
        names = subprocess.run(
            ["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True
        ).stdout.split()
        subprocess.run(["scancel", "--full", "--signal=USR2", *names], check=True)
        while len(list(tmp_path.glob("*-*"))) < 2:  # Slurm lets requeued jobs wait two minutes
            now = ["scontrol", "update", f"JobId={names[0]}", "StartTime=now"]
            subprocess.run(now, capture_output=True, check=False)
            time.sleep(0.5)

    preempter = threading.Thread(target=preempt, daemon=True)
    preempter.start()
    found = launched(runs(tmp_path, 1, "long once"))
    preempter.join()
    assert [record["status"] for record in found.values()] == ["finished"]
    assert len(list(tmp_path.glob("*-*"))) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("submitit", "node")
def test_without_waiting_the_jobs_go_on_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert launched(runs(tmp_path, 3), wait=False) == {}
    assert "submitted as 3 jobs of Slurm: " in caplog.text
    assert f"python -m petlbench.status --records {tmp_path}" in caplog.text
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*-*"))) < 3:
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("submitit", "node")
def test_an_interrupt_cancels_the_jobs(tmp_path: Path) -> None:
    with interrupt_when_two_run(tmp_path):
        launched(runs(tmp_path, 3, "long", "long", "long"))
    end = time.monotonic() + 60
    while subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout:
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("submitit", "node")
def test_what_slurm_refuses_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"Slurm refuses the jobs: .*invalid partition"):
        launched(runs(tmp_path, 2), partition="nowhere")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster": "pbs"}, "unknown hydra.launcher.cluster 'pbs'"),
        ({"gpus_per_run": 2}, "gpus_per_run is 2; it must be a whole number from 0 to 1"),
        ({"gpus_per_run": 0.5}, "gpus_per_run is 0.5; it must be a whole number from 0 to 1"),
        ({"mem_gb": 0}, "hydra.launcher.mem_gb is 0"),
        ({"timeout_min": "1h"}, "hydra.launcher.timeout_min is 1h"),
        ({"wait": "no"}, "hydra.launcher.wait is no; it must be true or false"),
        ({"partition": ""}, "hydra.launcher.partition is ''"),
        ({"setup": "module load cuda"}, "hydra.launcher.setup is module load cuda; it must be a"),
        ({"parameters": ["qos"]}, r"hydra.launcher.parameters is \['qos'\]; it must map"),
        ({"cluster": "local", "wait": False}, "hydra.launcher.wait=false needs Slurm"),
    ],
)
def test_impossible_settings_are_one_line(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        Slurm(**(GIVEN | settings)).check([each.planned for each in runs(tmp_path, 1)])


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = [each.planned for each in runs(tmp_path, 1)]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="hydra/launcher=slurm finds no sbatch on this machine"):
        Slurm(**GIVEN).check(planned)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"needs submitit; pip install 'petlbench\[slurm\]'"):
        Slurm(**GIVEN).check(planned)
