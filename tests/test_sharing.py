"""Sharing: model cards, the upload to a stub of Hugging Face, and the check of contributions."""

import base64
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import constants
from safetensors.numpy import save

from petlbench.commands import push_hub, records
from petlbench.report.__main__ import main as report
from petlbench.report.read.rows import members
from tests.records import keep, record

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "results" / "measured" / "mini" / "runs" / "mini" / "digits"
ADAPTFORMER = next(RUNS.glob("adaptformer-vit_mini-seed0-*.json"))
FILES = {"README.md", "delta.safetensors", "record.json"}


class Hub(BaseHTTPRequestHandler):
    """What an upload asks of Hugging Face: the repository, the way of each file, the commit."""

    asked: list[tuple[str, bytes]]

    def do_GET(self) -> None:
        self._answer({"id": "me/digits", "siblings": [], "sha": "0" * 40})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.path, content))
        if self.headers["Authorization"] != "Bearer hf_right":
            self._answer({"error": "no permission"}, 403)
        elif self.path.endswith("/create"):
            self._answer({"url": f"{constants.ENDPOINT}/me/digits"})
        elif "/preupload/" in self.path:
            files = json.loads(content)["files"]
            way = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer({"files": [{"path": f["path"], **way} for f in files]})
        else:
            url = f"{constants.ENDPOINT}/me/digits/commit/1"
            self._answer({"commitUrl": url, "commitOid": "1", "success": True})

    def _answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bytes]]]:
    Hub.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        yield Hub.asked
        server.shutdown()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A committed record with its delta beside it; the tensors do not matter here."""
    file = tmp_path / "runs" / ADAPTFORMER.name
    file.parent.mkdir()
    shutil.copy(ADAPTFORMER, file)
    file.with_suffix(".safetensors").write_bytes(delta_of(ADAPTFORMER.stem[-16:]))
    return file


def delta_of(identifier: str) -> bytes:
    return save({"bias": np.ones(2)}, metadata={"record": json.dumps(identifier)})


def test_a_folder_has_the_card_the_delta_and_the_record(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    assert push_hub.main([str(run), "--to", str(folder), "--private"]) == 2
    assert not folder.exists()
    assert push_hub.main([str(run), "--to", str(folder)]) == 0
    assert {file.name for file in folder.iterdir()} == FILES
    card = (folder / "README.md").read_text()
    assert "# AdaptFormer on Digits" in card
    assert "| test | 91.47 | 89.3 to 93.2 | 729 | 797 |" in card
    assert "trained parameters: 19,680, and 970 of the head" in card
    assert "petlbench.predictor(Path(file), checkpoint=None" in card
    assert str(tmp_path) not in card
    assert (folder / "delta.safetensors").read_bytes() == run.with_suffix(
        ".safetensors"
    ).read_bytes()


def test_an_upload_is_one_commit(
    run: Path, hub: list[tuple[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert push_hub.main([str(run), "--repo", "me/digits"]) == 0
    assert capsys.readouterr().out.strip().endswith("/me/digits")
    [commit] = [content for path, content in hub if "/commit/" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    files = {one["value"]["path"]: one["value"] for one in lines if one["key"] == "file"}
    assert files.keys() == FILES
    delta = run.with_suffix(".safetensors").read_bytes()
    assert base64.b64decode(files["delta.safetensors"]["content"]) == delta
    assert b"hf_hub_download('me/digits'" in base64.b64decode(files["README.md"]["content"])


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("token", "line"),
    [
        (None, "there is no token of Hugging Face; set HF_TOKEN"),
        ("hf_wrong", "refused 'me/digits'"),
    ],
)
def test_what_the_hub_needs_is_one_line(
    token: str | None,
    line: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    assert push_hub.main([str(run), "--repo", "me/digits"]) == 2
    [told] = capsys.readouterr().err.strip().splitlines()
    assert line in told


def test_what_cannot_be_shared_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push_hub.main([str(run), "--to", str(run.parent)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert push_hub.main([str(run), "--to", "x" * 300]) == 2
    assert "File name too long; give another path" in capsys.readouterr().err
    for name in (run.with_suffix(".safetensors"), run.parent, run.with_suffix(".jsn")):
        assert push_hub.main([str(name), "--to", str(tmp_path / "new")]) == 2
        # not the advice for a damaged record, which is to delete it
        assert capsys.readouterr().err == (
            f"error: '{name}' is no record; give the .json file of a run, beside its delta\n"
        )
    run.with_suffix(".safetensors").write_bytes(delta_of("another"))
    assert push_hub.main([str(run), "--to", str(tmp_path / "new")]) == 2
    assert "is of run another, and record" in capsys.readouterr().err
    run.with_suffix(".safetensors").unlink()
    assert push_hub.main([str(run), "--to", str(tmp_path / "new")]) == 2
    assert "has no delta" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe.json")
    assert push_hub.main([str(tmp_path / "pipe.json"), "--to", str(tmp_path / "new")]) == 2
    assert "a pipe or a device, and no file" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


HOSTILE = (
    "x`\n---\nlicense: mit\n# Title\n<script>alert(1)</script> [a](http://b) | \u202e`]"
    + "y" * 1000
)


def test_no_text_of_a_record_is_markup_of_the_card() -> None:
    hostile = json.loads(ADAPTFORMER.read_text())
    plain = push_hub.card(hostile, None)
    for node, key in (*((hostile, key) for key in ("title", "task_title")), *places(hostile)):
        node[key] = HOSTILE
    hostile["scores"][HOSTILE] = hostile["scores"].pop("test")
    hostile["provenance"]["splits"] = {HOSTILE: {"sha256": HOSTILE}}
    card = push_hub.card(hostile, None)
    assert len(card.splitlines()) == len(plain.splitlines()) - 1  # one split instead of two
    assert max(map(len, card.splitlines())) < 2000
    start, _, rest = card[4:].partition("\n---\n")
    assert yaml.safe_load(start).keys() == {"library_name", "pipeline_tag", "tags"}
    assert card.count("\n---\n") == 1
    outside = re.sub(r"`[^`\n]*`", "", rest)  # of code, which has no markup
    assert not re.search(r"(?<!\\)<|(?<!\\)\]\(|\u202e|\n# Title|http:", outside)


def places(record: Any) -> list[tuple[Any, str]]:
    """Texts below a record that a card shows, each as a mapping and a key."""
    provenance, factors = record["provenance"], record["factors"]
    nodes = (factors, provenance["versions"], provenance["checkpoint"], record["config"]["method"])
    found = [(n, key) for n in nodes for key, value in n.items() if isinstance(value, str)]
    return [*found, (provenance, "device"), (record["selection"], "fit_on")]


def test_committed_records_pass_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(file) for name in ("lora", "noah", "vpt_deep") for file in RUNS.glob(f"{name}-*")]
    assert len(files) == 9
    assert records.main(["check", *files]) == 0, capsys.readouterr().out


def test_methods_that_compute_with_weights_pass_the_check(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Their constructors fail on shapes: QR, singular values, clusters of weights."""
    pytest.importorskip("peft", reason="PEFT is not installed")
    trials = RUNS.parents[2] / "rates" / "trials"
    files = [next(trials.rglob(f"{name}-*.json")) for name in ("olora", "pissa", "adamss")]
    assert records.main(["check", *map(str, files)]) == 0, capsys.readouterr().out


def test_a_probe_needs_no_splits(capsys: pytest.CaptureFixture[str]) -> None:
    probes = ROOT / "results" / "measured" / "multitask" / "runs"
    assert records.main(["check", str(probes)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (("cost", "parameters", "method"), 19_681, "but its network has {'method': 19680"),
        (("config", "method", "rank"), 4, "they were changed by hand"),
        (("scores", "test"), {"top1": 50.0, "correct": 1, "total": 2}, "has 797 images"),
        (("factors", "seed"), 1, "factors is {'method': 'adaptformer'"),
        (("title",), "DTL", "title is 'DTL', but its configuration has 'AdaptFormer'"),
        (("suite",), "vtab", "suite is 'vtab', but its configuration has 'mini'"),
        (("config", "method"), None, "its values build no network"),
        (("selection", "select_on"), "val", "selection.select_on is 'val', but its protocol"),
        (("cost", "train_s"), -1.0, "cost.train_s is -1.0; it must be a number of at least 0"),
        (("provenance", "seconds"), -1, "provenance.seconds is -1; it must be"),
        (("provenance", "started"), "2999-01-01T00:00:00+00:00", "it must be a past time"),
        (("provenance", "started"), "2026-01-01", "it must be a past time with its zone"),
        (("provenance", "versions", "commit"), "main", "it must be a commit of git, or null"),
        (("provenance", "checkpoint", "sha256"), "0", "checkpoint.sha256 must be 64 hex"),
        (("provenance", "splits", "test", "images"), 9, "must be the sum of its labels"),
        (("notes",), {"x": "file:///home/me/x"}, "names a path of a machine"),
        (("notes",), {"x": "C:/me"}, "names a path of a machine"),
        (("notes",), {"x": "\n/a/b" + "y" * 999}, "' /a/byy"),
        (("scores", "test", "top1"), 99.0, "scores.test missing or wrong"),
        (("provenance", "device"), "/home/me/gpu", "names a path of a machine"),
        (("provenance", "splits"), None, "provenance.splits is missing"),
        (("factors", "method"), "lorra", "method lorra is not registered here"),
        (("status",), "failed", "only finished runs are compared"),
    ],
)
def test_a_faulty_contribution_is_named(
    place: tuple[str, ...], value: Any, fault: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads(run.read_text())
    node = record
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    run.write_text(json.dumps(record))
    assert records.main(["check", str(run)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line for line in lines if fault in line]
    assert last == f"1 records, {len(lines)} faults"
    assert max(map(len, lines)) < len(str(run)) + 310
    assert records.main(["check", str(run.parent / "nothing")]) == 2


def test_a_record_has_the_labels_of_its_values(run: Path, tmp_path: Path, capsys: Any) -> None:
    record = json.loads(run.read_text())
    for method, fault in (
        ("lora", "records would name the wrong method"),
        ("../../lora", "factors.method is '../../lora'; it must be a name"),
    ):
        renamed = {**record["factors"], "method": method}
        content = record | {"factors": renamed, "config": {**record["config"], "factors": renamed}}
        run.write_text(json.dumps(content))
        assert records.main(["check", str(run)]) == 1
        assert fault in capsys.readouterr().out
    shutil.copy(ADAPTFORMER, run)
    shutil.copy(ADAPTFORMER, tmp_path / "runs" / "other.json")
    assert records.main(["check", str(run.parent)]) == 1
    assert f"the same run as {run}\n" in capsys.readouterr().out
    with run.open("ab") as file:
        file.truncate(21_000_000)  # a hole, which takes no room
    assert records.main(["check", str(run)]) == 1
    assert "it has more than 20 MB" in capsys.readouterr().out


TWO = ("digits", "land")


def test_contributed_rows_are_ranked_among_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"lora": 70.0, "linear": 60.0}
    for folder, gain in (("own", 0.0), ("others", 20.0)):
        runs = [
            record(m, task, top1 + gain, id=f"{folder}{m}{task}")
            for m, top1 in scores.items()
            for task in members("dataset", "mini")
        ]
        keep(runs, tmp_path / folder)
    given = ["--records", str(tmp_path / "own"), "--community", str(tmp_path / "others")]
    out = ["--out", str(tmp_path / "out")]
    assert report(["leaderboard", *given, *out]) == 0
    for name in ("leaderboard", "leaderboard_community"):
        table = pd.read_csv(tmp_path / "out" / f"{name}.csv", index_col=0)
        assert list(table["average_rank"]) == [1.0, 2.0]
        assert list(table.index) == ["LoRA", "Linear"]
    tidy = pd.read_csv(tmp_path / "out" / "leaderboard_tidy.csv")
    assert set(tidy["source"]) == {"measured", "community"}
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    assert "Contributed by others, ranked among themselves." in page
    # measured on two tasks, the table of others has ranks over the same two
    keep([record(m, t, 50.0, id=f"{m}{t}") for m in scores for t in TWO], tmp_path / "two")
    keep([record(m, t, 60.0, id=f"x{m}{t}") for m in scores for t in TWO], tmp_path / "of others")
    given = ["--records", str(tmp_path / "two"), "--community", str(tmp_path / "of others")]
    assert report(["leaderboard", *given, *out]) == 0
    table = pd.read_csv(tmp_path / "out" / "leaderboard_community.csv", index_col=0)
    assert list(table["average_rank"]) == [1.5, 1.5]
    assert report(["table", *given, *out]) == 2
    assert "--community is for the leaderboard" in capsys.readouterr().err
