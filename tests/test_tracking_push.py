"""Records on their way to W&B: once each, with the means of their group, whatever was lost."""

from pathlib import Path
from typing import Any

import pytest

from petlbench.commands.tracking.main import main
from petlbench.report import overview
from petlbench.run import tracking, wandb_run
from petlbench.run.record import DELTA, Record, Store
from tests.command import run as petlbench
from tests.records import record
from tests.shallow import OVERRIDES
from tests.trees import paint
from tests.wandb_server import Sent, Server

WORKERS = ("hydra/launcher=local", "hydra.launcher.workers=2")


def finished(seed: int = 0) -> dict[str, Any]:
    curve = {"epoch": [1, 2, 3], "loss": [1.0, 0.5, 0.25], "lr": [0.01, 0.01, 0.005]}
    return {**record("lora", "land", 78.0, seed), "curve": curve}


def pushed(root: Path, *options: str) -> int:
    return main(["push", "--records", str(root), *options])


def of_records(server: Server) -> dict[str, Sent]:
    """The runs of the server without those of means."""
    return {name: run for name, run in server.runs.items() if run.settings["jobType"] == "train"}


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
    assert sorted(of_records(online)) == sorted([*(one["id"] for one in runs), lost["id"]])
    for one in runs:
        sent = online.runs[one["id"]]
        curve = one["curve"]
        assert [row["loss"] for row in sent.history] == curve["loss"]
        assert sent.summary["test/top1"] == one["scores"]["test"]["top1"]
        assert (sent.state, sent.settings["groupName"]) == ("finished", "mini")
    assert online.runs[lost["id"]].state == "failed"
    assert online.runs[lost["id"]].summary["reason"] == "no memory"
    assert online.runs[lost["id"]].summary["failed"] == 1
    assert online.artifacts.keys() <= {"run_table"}  # only of the means
    assert pushed(tmp_path) == 0
    assert "3 records, 3 there already" in capsys.readouterr().err
    assert {run.opened for run in online.runs.values()} == {1}
    # a run that failed and was repeated replaces the failed one
    store.write({**record("dtl", "land", 79.0), "id": lost["id"]})
    assert pushed(tmp_path, "--group", "again") == 0
    again = online.runs[lost["id"]]
    assert (again.state, again.opened, again.settings["groupName"]) == ("finished", 2, "again")


def test_the_means_of_a_group_are_one_run_that_follows_its_records(
    tmp_path: Path, online: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [record(m, t, top1) for m, t, top1 in
            (("lora", "digits", 70.0), ("lora", "land", 80.0), ("dtl", "land", 60.0))]  # fmt: skip
    for one in runs:
        Store(tmp_path).write(one)
    assert pushed(tmp_path, "--group", "trial") == 0
    [(name, means)] = [item for item in online.runs.items() if item[0] not in of_records(online)]
    assert (means.settings["groupName"], means.settings["displayName"]) == (
        "trial",
        "means of trial",
    )
    row = f"mini/vit_mini/final/{runs[0]['title']}"
    assert means.summary[f"{row}/task mean"] == 75
    assert not any(
        key.startswith(f"mini/vit_mini/final/{runs[2]['title']}/") for key in means.summary
    )
    table = next(
        content for path, content in online.uploads.items() if path.endswith("means.table.json")
    )
    assert b'"mini/digits"' in table
    frame = overview.means(runs)
    assert frame.set_index("method")["mini/land"].to_dict() == {
        runs[0]["title"]: 80,
        runs[2]["title"]: 60,
    }
    assert pushed(tmp_path, "--group", "trial") == 0
    assert "means of group trial: there already" in capsys.readouterr().err
    Store(tmp_path).write(record("dtl", "digits", 50.0))
    assert pushed(tmp_path, "--group", "trial") == 0
    assert online.runs[name].summary[f"mini/vit_mini/final/{runs[2]['title']}/task mean"] == 55
    assert online.runs[name].opened == 2


def test_there_are_no_means_of_nothing_or_of_different_settings(
    tmp_path: Path, online: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "a").write(record("dtl", "land", None, reason="no memory"))
    assert pushed(tmp_path / "a") == 0
    assert "group mini: none, no run of it has finished with a score" in capsys.readouterr().err
    other = {**record("lora", "land", 79.0, seed=1), "id": "other"}
    other["config"] = {**other["config"], "train": {**other["config"]["train"], "lr": 0.5}}
    for one in (finished(), other):
        Store(tmp_path / "b").write(one)
    assert pushed(tmp_path / "b") == 0
    assert "group mini: none, two finished runs of" in capsys.readouterr().err
    assert online.runs.keys() == of_records(online).keys()


def test_records_and_deltas_are_artifacts_once(
    tmp_path: Path, online: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    file = store.write(finished())
    file.with_suffix(DELTA).write_bytes(b"tensors")
    assert pushed(tmp_path) == 0
    assert wandb_run.ARTIFACT not in online.artifacts
    for times in (1, 1):
        assert pushed(tmp_path, "--artifacts") == 0
        names = online.artifacts[wandb_run.ARTIFACT]
        assert {name: len(versions) for name, versions in names.items()} == {file.stem: times}
    assert "1 records, 1 there already" in capsys.readouterr().err
    assert online.uploads[file.name] == file.read_bytes()
    assert online.uploads[f"{file.stem}{DELTA}"] == b"tensors"
    assert online.runs[finished()["id"]].opened == 2  # without artifacts, and with them


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """A task of twenty small images that a linear head learns in a second."""
    for number in range(20):
        paint(tmp_path / "pets" / "cd"[number % 2] / f"{number}.png", number)
    return [
        *("dataset=folder", "dataset.root=pets", "method=linear", "train.epochs=2"),
        *("train.batch_size=4", "device=cpu", "wandb.mode=online", "wandb.group=trial"),
        *OVERRIDES,
    ]


def test_a_server_that_is_lost_while_a_run_trains_loses_nothing(
    tmp_path: Path, online: Server, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    log = tracking.WandbTracker.epoch

    def dying(tracker: tracking.WandbTracker, epoch: int, loss: float, lr: float) -> None:
        log(tracker, epoch, loss, lr)
        online.closing = True

    monkeypatch.setattr(tracking.WandbTracker, "epoch", dying)
    monkeypatch.setattr(wandb_run, "FINISH_S", 1)
    code, told = petlbench(tmp_path, *small, "wandb.artifacts=true")
    assert code == 0, told
    assert "no answer in" in told
    assert told.count("push` sends it later") == 1
    [kept] = Store(tmp_path / "results" / "runs").records()
    assert kept["status"] == "finished"
    assert online.runs[kept["id"]].state == "running"
    online.closing = False
    wandb.teardown()  # push is a process of its own
    monkeypatch.setattr(wandb_run, "FINISH_S", 60)
    for _ in range(2):
        assert pushed(tmp_path / "results" / "runs") == 0
    sent = of_records(online)
    assert [(name, run.state) for name, run in sent.items()] == [(kept["id"], "finished")]
    assert [row["loss"] for row in sent[kept["id"]].history] == kept["curve"]["loss"]
    assert [len(found) for found in online.artifacts[wandb_run.ARTIFACT].values()] == [1]


@pytest.mark.slow
def test_workers_write_the_runs_of_one_group(
    tmp_path: Path, online: Server, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    known = [text for text in small if text not in OVERRIDES]  # to the workers too
    code, told = petlbench(tmp_path, "-m", *known, "seed=0,1", *WORKERS)
    assert code == 0, told
    records: list[Record] = list(Store(tmp_path / "results" / "runs").records())
    assert sorted(online.runs) == sorted(one["id"] for one in records)
    for one in records:
        sent = online.runs[one["id"]]
        assert (sent.state, sent.settings["groupName"], sent.opened) == ("finished", "trial", 1)
        assert [row["loss"] for row in sent.history] == one["curve"]["loss"]
    assert pushed(tmp_path / "results" / "runs") == 0
    assert "2 records, 2 there already" in capsys.readouterr().err


def test_a_record_without_some_values_has_a_summary() -> None:
    bare = record("lora", "land", 70.0)
    bare["cost"] |= {"parameters": None, "peak_mib": None}
    bare["provenance"]["checkpoint"] = None
    found = wandb_run.summary(bare)
    assert found["test/top1"] == 70.0
    assert not {"parameters_method", "peak_mib", "checkpoint_sha256"} & found.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push", "--records", "nowhere"], "--records 'nowhere' is no folder"),
        (["push", "--records", "."], "no records in .; give the results.root"),
        (["push"], "the following arguments are required: --records"),
        (["pull"], "unknown command 'pull'"),
        (["sweep"], "the following arguments are required: KEY=VALUE"),
        (["sweep", "experiment=tabel2"], "unknown experiment 'tabel2'; did you mean 'table2'"),
        (["sweep", "method=", "--print"], "method"),
        (["sweep", "train.lr=a", "--print"], "train.lr is a; it must be a number"),
        (["sweep", "train.lrr=1", "--print"], "no key 'train.lrr' to set; did you mean"),
        (["sweep", "hydra/launcher=local", "--print"], "'hydra/launcher=local' is for a sweep"),
        (["sweep", "~method_on", "--print"], "'~method_on': W&B passes only KEY=VALUE"),
        (["dashboard"], "the following arguments are required: --project"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0
    [line] = capsys.readouterr().err.splitlines()
    assert (code, message in line) == (2, True), line
    assert not list(tmp_path.iterdir())
