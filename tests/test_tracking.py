"""W&B: what an offline run holds, falling back from online, and that it never breaks a run."""

import json
import logging
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from petlbench.commands import tracking as command
from petlbench.config.schema import Config, WandbConfig
from petlbench.errors import UserError
from petlbench.run import lifecycle, tracking
from petlbench.run.record import Store
from tests.records import record
from tests.settings import config as settings_of
from tests.wandb_server import Server, server

CONF = Path(__file__).parent.parent / "conf"
BLOCK = 32768


def config(root: Path, mode: str, seed: int = 0) -> Config:
    settings = settings_of(root, "lora")
    factors = replace(settings.factors, task="mini/land", seed=seed)
    wandb = WandbConfig(mode=mode, project="p", entity=None, group="trial", tags=["x" * 99])
    dataset = replace(settings.dataset, suite="mini", group="specialized")
    return replace(settings, factors=factors, wandb=wandb, dataset=dataset, seed=seed)


def rows(root: Path) -> Iterator[Any]:
    """Records of all .wandb files below a folder, in W&B's own protobuf messages."""
    messages: Any = import_module("wandb.proto.wandb_internal_pb2")
    for path in sorted(root.glob("wandb/offline-run-*/*.wandb")):
        content, place, part = path.read_bytes(), 7, b""
        while place + 7 <= len(content):
            if BLOCK - place % BLOCK < 7:  # the rest of a block is padding
                place += BLOCK - place % BLOCK
                continue
            _, length, kind = struct.unpack("<IHB", content[place : place + 7])
            part += content[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # whole, or the last part
                message = messages.Record()
                message.ParseFromString(part)
                part = b""
                yield message


def tracked(root: Path, mode: str, seed: int = 0) -> None:
    settings = config(root, mode, seed)
    blank = lifecycle.blank(settings)
    tracker = tracking.start(settings, blank)
    for epoch in (1, 2):
        tracker.epoch(epoch, 1 / epoch, 0.01)
    tracker.finish(record("lora", "land", 78.0, seed))


def read_back(root: Path) -> dict[str, Any]:
    """What W&B wrote; its service may still be writing when `finish` returns."""
    import wandb

    wandb.teardown()
    return read_now(root)


def read_now(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"history": [], "summary": {}, "runs": []}
    for message in rows(root):
        if message.HasField("run"):
            found["runs"].append(message.run)
        for item in message.run.config.update:
            found.setdefault("config", {})[item.key] = json.loads(item.value_json)
        if message.HasField("history"):
            items = message.history.item
            found["history"].append(
                {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in items}
            )
        for item in message.summary.update:
            found["summary"][item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found


def test_an_offline_run_holds_config_curve_summary_and_names(tmp_path: Path) -> None:
    tracked(tmp_path, "offline")
    found = read_back(tmp_path)
    run = found["runs"][0]
    assert (run.display_name, run.run_group, run.job_type) == (
        "lora-mini/land-0",
        "trial",
        "train",
    )
    assert set(run.tags) == {"mini", "specialized", "lora", "vit_mini", "x" * 64}
    assert found["config"]["train"]["lr"] == 0.01
    curve = [(row["epoch"], row["loss"], row["lr"]) for row in found["history"]]
    assert curve == [(1, 1.0, 0.01), (2, 0.5, 0.01)]
    assert found["summary"]["test/top1"] == 78.0
    assert found["summary"]["parameters_method"] == 36864
    assert found["summary"]["status"] == "finished"


def test_two_runs_in_one_process_are_two(tmp_path: Path) -> None:
    for seed in (0, 1):
        tracked(tmp_path, "offline", seed)
    names = {run.display_name for run in read_back(tmp_path)["runs"]}
    assert names == {"lora-mini/land-0", "lora-mini/land-1"}


def test_online_without_a_server_goes_on_offline_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "petlbench"):
        tracked(tmp_path, "online")
    assert time.monotonic() - started < 15
    assert "going on offline" in caplog.text
    assert read_back(tmp_path)["summary"]["test/top1"] == 78.0


def test_disabled_does_not_import_wandb() -> None:
    code = (
        "import sys; from petlbench.config import compose; from petlbench.run import tracking; "
        "tracker = tracking.start(compose.single([]), {}); tracker.epoch(1, 0.5, 0.1); "
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown wandb\.mode 'ofline'; did you mean 'offline'"):
        config(tmp_path, "ofline")


class Broken:
    """A W&B run whose every call fails."""

    calls = 0

    def log(self, row: Any, step: int) -> None:
        self.calls += 1
        raise RuntimeError("no space\nleft")


def test_trouble_in_wandb_is_told_once_and_ends_tracking_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Broken()
    tracker = tracking.WandbTracker(run)
    with caplog.at_level(logging.WARNING, "petlbench"):
        tracker.epoch(1, 0.5, 0.1)
        tracker.epoch(2, 0.5, 0.1)
        tracker.finish(record("lora", "land", 78.0))
    assert run.calls == 1
    assert [r.getMessage() for r in caplog.records] == [
        f"wandb: no space left; this run is tracked no further, {tracking.LATER}"
    ]


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of W&B on loopback, with all that an environment may say of runs."""
    import wandb

    with server() as serving:
        wandb.teardown()
        monkeypatch.setenv("WANDB_BASE_URL", serving.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_RUN_ID", "shared")
        monkeypatch.setenv("WANDB_NAME", "shared")
        yield serving
        wandb.teardown()


def test_each_run_has_the_id_of_its_record_whatever_the_environment_says(
    tmp_path: Path, online: Server
) -> None:
    for seed in (0, 1):
        tracked(tmp_path, "online", seed)
    ids = [lifecycle.blank(config(tmp_path, "online", seed))["id"] for seed in (0, 1)]
    assert sorted(online.runs) == sorted(ids)
    run = online.runs[ids[0]]
    assert [row["loss"] for row in run.history] == [1, 0.5]
    assert (run.summary["test/top1"], run.state) == (78, "finished")
    assert run.config["train"]["lr"] == 0.01
    assert run.settings["displayName"] == "lora-mini/land-0"


def test_a_job_of_a_wandb_sweep_has_the_id_that_its_agent_gave(
    tmp_path: Path, online: Server, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "a-sweep")
    for seed in (0, 1):
        tracked(tmp_path, "online", seed)
    assert [(name, run.opened) for name, run in online.runs.items()] == [("shared", 1)]
    assert "a job of W&B's sweeps tracks one run" in caplog.text


def finished(seed: int = 0) -> dict[str, Any]:
    curve = {"epoch": [1, 2, 3], "loss": [1.0, 0.5, 0.25], "lr": [0.01, 0.01, 0.005]}
    return {**record("lora", "land", 78.0, seed), "curve": curve}


def pushed(root: Path, *options: str) -> int:
    return command.main(["push", "--records", str(root), *options])


def test_records_are_sent_later_and_once(
    tmp_path: Path, online: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    store, runs = Store(tmp_path), [finished(seed) for seed in (0, 1)]
    lost = record("dtl", "land", None, reason="no memory")
    never = record("vpt", "land", None, reason="no tokens") | {"status": "unsupported"}
    for one in (*runs, lost, never):
        store.write(one)
    assert pushed(tmp_path) == 0
    assert "someone/petlbench: 3 records, 0 there already" in capsys.readouterr().err
    assert sorted(online.runs) == sorted([*(one["id"] for one in runs), lost["id"]])
    for one in runs:
        sent = online.runs[one["id"]]
        curve = one["curve"]
        assert [row["loss"] for row in sent.history] == curve["loss"]
        assert sent.summary["test/top1"] == one["scores"]["test"]["top1"]
        assert (sent.state, sent.settings["groupName"]) == ("finished", "mini")
    assert online.runs[lost["id"]].state == "failed"
    assert online.runs[lost["id"]].summary["reason"] == "no memory"
    assert pushed(tmp_path) == 0
    assert "3 records, 3 there already" in capsys.readouterr().err
    assert {run.opened for run in online.runs.values()} == {1}
    # a run that failed and was repeated replaces the failed one
    store.write({**record("dtl", "land", 79.0), "id": lost["id"]})
    assert pushed(tmp_path, "--group", "again") == 0
    again = online.runs[lost["id"]]
    assert (again.state, again.opened, again.settings["groupName"]) == ("finished", 2, "again")


def test_a_run_that_the_server_lost_is_sent_by_push(
    tmp_path: Path,
    online: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tracking, "FINISH_S", 2)
    settings = config(tmp_path, "online")
    blank = lifecycle.blank(settings)
    tracker = tracking.start(settings, blank)
    tracker.epoch(1, 1.0, 0.01)
    online.closing = True
    tracker.epoch(2, 0.5, 0.01)
    whole = {**finished(), "id": blank["id"]}
    Store(tmp_path).write(whole)
    started = time.monotonic()
    tracker.finish(whole)
    assert time.monotonic() - started < tracking.FINISH_S + 5
    assert "no answer in 2 s; this run is tracked no further" in caplog.text
    online.closing = False
    import wandb

    wandb.teardown()  # push is a process of its own
    assert pushed(tmp_path, "--project", "p") == 0
    sent = online.runs[blank["id"]]
    assert (sent.state, sent.summary["test/top1"]) == ("finished", 78)
    assert [row["loss"] for row in sent.history] == whole["curve"]["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push", "--records", "nowhere"], "--records 'nowhere' is no folder"),
        (["push", "--records", "."], "no records in .; give the results.root"),
        (["push"], "the following arguments are required: --records"),
        (["pull"], "invalid choice: 'pull'"),
    ],
)
def test_mistakes_of_push_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = command.main(arguments)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0
    [line] = capsys.readouterr().err.splitlines()
    assert (code, message in line) == (2, True), line


def test_push_without_a_server_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    Store(tmp_path).write(record("lora", "land", 78.0))
    assert pushed(tmp_path) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: wandb: no answer from http://127.0.0.1:1")


def test_the_sweep_file_makes_overrides_of_the_command_line() -> None:
    sweep = yaml.safe_load((CONF / "sweep" / "wandb.yaml").read_text())
    expected = ["${env}", "${interpreter}", "-m", "petlbench", "${args_no_hyphens}"]
    assert sweep["command"] == expected
    parser = OverridesParser.create()
    for key, choice in sweep["parameters"].items():
        for value in choice.get("values", [choice.get("value")]):
            [override] = parser.parse_overrides([f"{key}={value}"])
            assert not override.is_sweep_override()
            if key in ("method", "dataset"):
                assert (CONF / key / f"{value}.yaml").is_file()
