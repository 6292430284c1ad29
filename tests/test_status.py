"""python -m petlbench.status: done, running, failed, to do."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from petlbench.commands.status import lines, main, status
from petlbench.run.claims import Claims, _system
from petlbench.run.record import Store
from petlbench.sweep import plans
from petlbench.sweep.plan import FINISHED, TO_RUN, UNSUPPORTED, Planned
from tests.records import record
from tests.settings import config


def planned(root: Path, known: dict[str, Any] | None, name: str, state: str = TO_RUN) -> Planned:
    settings = config(root, "lora")
    return Planned(settings, known["id"] if known else name.zfill(16), state, (name,))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two finished runs of 60 s, a failed one, and five in the plan."""
    top = tmp_path / "runs"
    store = Store(top)
    done = [record("lora", "land", 78.0, seed) for seed in (0, 1)]
    for one in done:  # of the epochs and suite that the plan has
        one["provenance"]["seconds"] = 60.0
        one["config"]["train"]["epochs"], one["suite"] = config(top).train.epochs, "fake"
    lost = record("dtl", "land", None, reason="no memory")
    lost["provenance"]["seconds"] = 0.0
    for one in (*done, lost, record("vpt", "cells", None) | {"status": "unsupported"}):
        store.write(one)
    plans.keep(
        [
            *(planned(top, one, "again", FINISHED) for one in done),
            planned(top, lost, "again"),
            planned(top, None, "1"),
            planned(top, None, "2"),
            planned(top, None, "3", UNSUPPORTED),
        ]
    )
    return top


def test_the_state_of_a_sweep(root: Path) -> None:
    claim = Claims(root).take("1".zfill(16))
    assert claim is not None
    with claim:
        found = status(str(root))
    name = planned(root, None, "1").full_name
    assert (found.done, found.unsupported) == (2, 1)
    assert {key: owner.pid for key, owner in found.running.items()} == {name: os.getpid()}
    assert list(found.failed.values()) == ["failed: no memory"]
    assert found.to_do == [planned(root, None, "2").full_name]
    assert found.hours_spent == pytest.approx(2 / 60)
    assert found.hours_left == pytest.approx(2 / 60)  # the running one and the open one
    assert found.unknown == 0
    shown = lines(found)
    assert shown[1].split() == ["2", "done,", "2", "min", "of", "runs"]
    assert f"process {os.getpid()} on" in shown[3]


def test_a_failed_run_with_a_strange_time_stops_nothing(root: Path) -> None:
    lost = record("dtl", "cells", None)
    lost["provenance"]["seconds"] = "long"
    Store(root).write(lost)
    assert status(str(root)).hours_spent == pytest.approx(2 / 60)


def test_without_a_plan_it_does_not_guess(tmp_path: Path) -> None:
    Store(tmp_path).write(record("lora", "land", 78.0))
    found = status(str(tmp_path))
    assert (found.to_do, found.hours_left) == (None, None)
    assert lines(found)[-1].split()[0] == "?"


def test_a_damaged_plan_and_foreign_files_stop_nothing(root: Path) -> None:
    (root / plans.FOLDER / "a").write_text("{oops")
    (root / plans.FOLDER / "b").write_text("[]")
    (root / plans.FOLDER / "c").write_text('{"1": "a name and no epochs"}')
    (root / "x.json").write_text("[]")
    assert status(str(root)).done == 2
    # a plan is no record
    assert set(map(str, Store(root).skipped)) == set()
    store = Store(root)
    assert len(list(store.records())) == 4
    assert [path.name for path in store.skipped] == ["x.json"]


def test_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--records", str(root), "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["done"], len(found["to_do"])) == (2, 2)
    assert main(["--records", str(root), str(root)]) == 0
    assert capsys.readouterr().out.count("done") == 2


@pytest.mark.parametrize("folder", ["nothing", "x" * 5000])
def test_a_missing_folder_is_one_line(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--records", folder]) == 2
    assert capsys.readouterr().err.startswith("error: --records ")


def test_a_finished_run_wins_over_a_failed_one_of_its_identity(root: Path) -> None:
    """Another option file named the method differently at the time."""
    done = record("lora", "land", 78.0, 0)
    failed = record("zoo", "land", None) | {"id": done["id"]}
    Store(root).write(failed)
    found = status(str(root))
    assert (found.done, len(found.failed)) == (2, 1)


def test_a_claim_with_an_impossible_process_has_no_owner(root: Path) -> None:
    claims = Claims(root)
    claims.folder.mkdir(exist_ok=True)
    claim = {"host": "a", "pid": 10**30, "since": "now", "system": _system()}
    (claims.folder / "1".zfill(16)).write_text(json.dumps(claim) + "\n00000001\n")
    assert status(str(root)).running == {}
    assert claims.take("1".zfill(16)) is None  # until it has not changed for a minute
