"""Sweeps and dashboards on W&B's server: what is registered and saved, and what is refused."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from petlbench.commands.tracking import dashboard
from petlbench.commands.tracking.main import main
from petlbench.run import wandb_client
from petlbench.run.record import Store
from tests.command import run as petlbench
from tests.records import record
from tests.wandb_server import Server

DEMO = ("experiment=demo", "dataset=mini/natural", "method=lora,linear")
DRY = "hydra.sweeper.dry_run=true"


def printed(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    assert main(["sweep", "--print", *overrides]) == 0
    sweep: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return sweep


def test_a_sweep_names_every_method_and_task_and_its_jobs_are_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = printed(capsys, *DEMO, "train.epochs=3", "results.root=2024_1")
    assert (sweep["name"], sweep["project"], sweep["method"]) == ("demo", "petlbench", "grid")
    parameters = sweep["parameters"]
    assert parameters["experiment"] == {"value": "demo"}
    assert parameters["dataset"] == {"values": ["mini/digits", "mini/glyphs"]}
    assert parameters["method"] == {"values": ["lora", "linear"]}
    assert parameters["seed"] == {"value": 0}
    assert parameters["train.epochs"] == {"value": 3}
    assert parameters["wandb.mode"] == {"value": "online"}
    assert not list(tmp_path.iterdir())
    # one job, as an agent of W&B starts it: `${args_no_hyphens}` is KEY=VALUE of each parameter
    assert sweep["command"][2:] == ["-m", "petlbench", "-m", "${args_no_hyphens}"]
    values = {key: axis.get("values", [axis.get("value")])[0] for key, axis in parameters.items()}
    job = [f"{key}={value}" for key, value in values.items()]
    code, told = petlbench(tmp_path, "-m", *job, DRY)
    assert code == 0, told
    assert "plan: 1 run, 0 finished (skipped), 1 to run" in told


def test_values_of_a_sweep_are_numbers_or_as_hydra_reads_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = printed(
        capsys,
        *("method=lora", "dataset=mini/land", "protocol=trial", "train.lr=1e-3,0.01"),
        *("train.clip_grad=null", "wandb.tags=[a,b]", "backbone.fused_attention=false"),
        *("wandb.project=p", "wandb.group=g", "method.rank=2,4"),
    )
    parameters = sweep["parameters"]
    assert (sweep["name"], sweep["project"]) == ("g", "p")
    assert sweep["metric"] == {"name": "val/top1", "goal": "maximize"}
    assert parameters["train.lr"] == {"values": [0.001, 0.01]}
    assert parameters["method.rank"] == {"values": [2, 4]}
    assert parameters["train.clip_grad"] == {"value": "null"}
    assert parameters["wandb.tags"] == {"value": "[a,b]"}
    assert parameters["backbone.fused_attention"] == {"value": False}


def test_a_sweep_is_written_and_registered(
    tmp_path: Path, online: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"results.root={tmp_path}"
    assert main(["sweep", *DEMO, "wandb.entity=team", "wandb.group=a/b", root]) == 0
    told = capsys.readouterr()
    assert told.out == "wandb agent team/petlbench/sweep1\n"
    assert "4 runs" in told.err
    [sent] = online.sweeps
    written = yaml.safe_load((tmp_path / "wandb" / "sweep-a-b.yaml").read_text())
    assert yaml.safe_load(sent["config"]) == written
    assert (sent["entityName"], sent["projectName"]) == ("team", "petlbench")
    assert list(Store(tmp_path).files()) == []  # it is no record


def test_a_job_of_a_sweep_is_not_sent_again(
    tmp_path: Path, online: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path).write(kept := record("lora", "land", 78.0))
    assert main(["push", "--records", str(tmp_path)]) == 0
    run = online.runs.pop(kept["id"])
    run.settings["sweep"] = "sweep1"
    online.runs["named-by-an-agent"] = run
    assert main(["push", "--records", str(tmp_path)]) == 0
    assert "1 records, 1 there already" in capsys.readouterr().err
    assert kept["id"] not in online.runs


def test_a_dashboard_is_one_view_that_later_calls_replace(
    tmp_path: Path, online: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in (record("lora", "land", 78.0), record("dtl", "land", None, reason="no memory")):
        Store(tmp_path).write(one)
    assert main(["push", "--records", str(tmp_path), "--group", "trial"]) == 0
    for _ in range(2):
        assert main(["dashboard", "--project", "petlbench", "--group", "trial"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith(f"{online.url}/someone/petlbench?nw=petlbench")
    [view] = online.views.values()
    assert (view["displayName"], view["id"]) == ("petlbench trial", "9")
    section = json.loads(view["spec"])["section"]
    panels = {each["name"]: each["panels"] for each in section["panelBankConfig"]["sections"]}
    assert list(panels) == ["Accuracy by method and task", "Pareto", "Cost", "Failures"]
    points = [(panel["config"]["xAxis"], panel["config"]["yAxis"]) for panel in panels["Pareto"]]
    assert ("summary:parameters_method", "summary:test/top1") in points
    assert ("summary:peak_mib", "summary:test/top1") in points
    table, *bars = panels["Accuracy by method and task"]
    assert table["viewType"] == "Weave"
    assert [bar["config"]["groupBy"] for bar in bars] == [
        "factors.value.method",
        "factors.value.task",
    ]
    assert "trial" in json.dumps(section["runSets"][0]["filters"])
    assert main(["dashboard", "--project", "petlbench"]) == 0
    assert len(online.views) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group", "trail"], "unknown group of someone/petlbench 'trail'; did you mean 'trial'"),
        ([], "someone/petlbench has no runs; python -m petlbench.tracking push sends records"),
    ],
)
def test_a_dashboard_of_nothing_is_refused(
    arguments: list[str], message: str, tmp_path: Path, online: Server, capsys: Any
) -> None:
    if arguments:
        Store(tmp_path).write(record("lora", "land", 78.0))
        assert main(["push", "--records", str(tmp_path), "--group", "trial"]) == 0
        capsys.readouterr()
    assert main(["dashboard", "--project", "petlbench", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert online.views == {}


def test_a_dashboard_without_its_package_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("wandb_workspaces", "wandb_workspaces.reports.v2", "wandb_workspaces.workspaces"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["dashboard", "--project", "p"]) == 2
    assert capsys.readouterr().err == (
        f"error: the dashboard needs wandb-workspaces; {dashboard.INSTALL}\n"
    )


COMMANDS = (
    ["push", "--records", "."],
    ["sweep", "method=lora", "dataset=mini", "results.root=runs"],
    ["dashboard", "--project", "p"],
)


@pytest.fixture
def lone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one record and no key of W&B in reach."""
    import wandb

    wandb.teardown()
    Store(tmp_path).write(record("lora", "land", 78.0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    return tmp_path


@pytest.mark.parametrize("arguments", COMMANDS)
def test_without_a_server_is_one_line(
    arguments: list[str], lone: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    assert main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: wandb: no answer from http://127.0.0.1:1")
    if arguments[0] == "sweep":
        assert (lone / "runs" / "wandb" / "sweep-mini.yaml").is_file()


@pytest.mark.parametrize("arguments", COMMANDS)
def test_without_a_key_is_one_line(
    arguments: list[str], lone: Path, online: Server, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    assert main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: wandb: ")
    assert "WANDB_API_KEY" in line


@contextmanager
def mute() -> Iterator[str]:
    """The address of a server that says it is well and answers nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        open_ones = []

        def serve() -> None:
            while True:
                try:
                    open_ones.append(listening.accept()[0])
                except OSError:
                    return
                if b"/healthz" in open_ones[-1].recv(999):
                    open_ones[-1].sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for one in open_ones:
            one.close()


def test_a_server_that_does_not_answer_questions_is_one_line(
    lone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    assert wandb_client.REACH_S + wandb_client.ANSWER_S < 20
    monkeypatch.setattr(wandb_client, "ANSWER_S", 1)
    with mute() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        started = time.monotonic()
        assert main(COMMANDS[0]) == 2
        assert time.monotonic() - started < 10
        assert "error: wandb: no answer in 1 s; see WANDB_BASE_URL" in capsys.readouterr().err
    wandb.teardown()
    assert os.environ["WANDB_BASE_URL"] == url
