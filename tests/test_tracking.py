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

from petlbench.config.job_nodes import WandbConfig
from petlbench.config.schema import Config
from petlbench.errors import UserError
from petlbench.run import lifecycle, tracking
from tests.records import record
from tests.settings import config as settings_of
from tests.wandb_server import Server

BLOCK = 32768


def config(root: Path, mode: str, seed: int = 0) -> Config:
    settings = settings_of(root, "lora")
    factors = replace(settings.factors, task="mini/land", seed=seed)
    wandb = WandbConfig(
        mode=mode, project="p", entity=None, group="trial", tags=["x" * 99], artifacts=False
    )
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
    tracker = tracking.WandbTracker(run, artifacts=False)
    with caplog.at_level(logging.WARNING, "petlbench"):
        tracker.epoch(1, 0.5, 0.1)
        tracker.epoch(2, 0.5, 0.1)
        tracker.finish(record("lora", "land", 78.0))
    assert run.calls == 1
    assert [r.getMessage() for r in caplog.records] == [
        f"wandb: no space left; this run is tracked no further, {tracking.LATER}"
    ]


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
