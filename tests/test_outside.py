"""A package outside the tree: train, sweep, reload, merge, predict, verify, report."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import petlbench
from petlbench import registry
from petlbench.commands.data.main import main as data_command
from petlbench.commands.predict import main as predict
from petlbench.commands.testing import main as properties
from petlbench.config import compose, options, search_path
from petlbench.delta import load
from petlbench.merge import merged
from petlbench.report.__main__ import main as report
from petlbench.run import build
from petlbench.run.record import Record, Store
from tests.command import run
from tests.processes import finished
from tests.shallow import BLOCKS, NAME, packaged

PACKAGE = Path(__file__).parent / "outside"
ROOT = Path(__file__).parent.parent
QUICK = ("dataset=blobs", "device=cpu", "results.root=runs", f"backbone.name={NAME}")
WORKING = ("outside_vera", "outside_gain", "outside_self_merging", "outside_principal")


def forget() -> None:
    search_path.packages.cache_clear()
    options._files.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, with the package and a broken one installed."""
    site = tmp_path / "site"
    for name, value in (("outside", "outside_petl.conf"), ("broken", "broken_petl.conf")):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[petlbench.conf]\n{name} = {value}\n")
    (site / "broken_petl").mkdir()
    (site / "broken_petl" / "__init__.py").write_text("1 / 0\n")
    for place in (site, PACKAGE):
        monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{PACKAGE}:{ROOT}")
    monkeypatch.setenv("PETLBENCH_CACHE", str(tmp_path / "cache"))
    forget()
    (tmp_path / "work").mkdir()
    with packaged(tmp_path):
        yield tmp_path / "work"
    forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside_petl"]:
        del sys.modules[name]


def trained(folder: Path, method: str) -> Record:
    code, output = run(folder, f"method={method}", *QUICK)
    assert code == 0, output
    [record] = Store(folder / "runs").records()
    return record


def images() -> Tensor:
    return torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def test_frozen_random_matrices_come_back_under_another_random_state(folder: Path) -> None:
    record = trained(folder, "outside_vera")
    assert record["status"] == "finished"
    assert record["cost"]["parameters"]["method"] == BLOCKS * 2 * (4 + 96)
    config = compose.single(["method=outside_vera", *QUICK])
    path = Store(folder / "runs").path(record, ".safetensors")
    logits, fresh = [], None
    for seed in (1, 2):
        torch.manual_seed(seed)
        fresh = build.method(config).eval()
        load(path, fresh)
        logits.append(fresh(images()).detach())
    assert torch.equal(logits[0], logits[1])
    assert fresh is not None
    alone = merged(fresh)(images())
    torch.testing.assert_close(alone, logits[1], rtol=1e-4, atol=1e-4)


def test_a_delta_of_another_package_predicts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = trained(folder, "outside_vera")
    path = Store(folder / "runs").path(record, ".safetensors")
    pictures = folder / "pictures"
    pictures.mkdir()
    for number, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        Image.new("RGB", (48, 48), colour).save(pictures / f"{number}.png")
    capsys.readouterr()
    assert predict(["--delta", str(path), "--device", "cpu", str(pictures)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_method_may_merge_itself(folder: Path) -> None:
    config = compose.single(["method=outside_self_merging", *QUICK])
    method = build.method(config).eval()
    with torch.no_grad():
        method.gain.fill_(1.5)  # type: ignore[operator]
    torch.testing.assert_close(merged(method)(images()), method(images()), rtol=1e-4, atol=1e-4)


def test_a_bug_shows_its_traceback_and_is_no_refusal(folder: Path) -> None:
    code, output = run(folder, "method=outside_buggy", *QUICK)
    assert code == 1
    assert "Traceback" in output
    assert "no attribute 'haed'" in output
    assert "unsupported" not in output
    [record] = Store(folder / "runs").records()
    assert record["status"] == "failed"
    assert "haed" in record["reason"]


def test_one_sweep_runs_what_works_and_says_what_does_not(folder: Path) -> None:
    """From an empty folder; then the report."""
    working = WORKING[:1] + WORKING[2:]  # the others train as outside_gain does
    names = ",".join((*working, "outside_unannounced", "outside_buggy"))
    code, output = run(folder, "-m", f"method={names}", *QUICK)
    assert code == 1
    assert "plan: 5 runs, 0 finished (skipped), 3 to run, 2 broken" in output
    assert output.count("Traceback") == 2  # one of each author's mistakes
    records = {record["factors"]["method"]: record for record in Store(folder / "runs").records()}
    statuses = {name: record["status"] for name, record in records.items()}
    broken = dict.fromkeys(("outside_unannounced", "outside_buggy"), "failed")
    assert statuses == dict.fromkeys(working, "finished") | broken
    assert "meta" in records["outside_unannounced"]["reason"]
    code = report(["leaderboard", "--records", str(folder / "runs"), "--out", str(folder / "out")])
    assert code == 0
    assert "VeRA" in (folder / "out" / "leaderboard.csv").read_text()


def test_a_data_set_of_another_package_is_verified(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_command(["verify", "blobs", "--json"]) == 0
    [task] = json.loads(capsys.readouterr().out)["tasks"]
    assert task["defects"] == []
    assert task["splits"]["train"]["images"] == 24


def test_the_properties_of_a_method_of_another_package_are_tested(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert properties(["outside_vera", "--backbone", "vit"]) == 0
    output = capsys.readouterr().out
    assert " 0 FAILED" in output
    assert "a delta reloads exactly" in output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.rank=x", "error: method.rank is 'x'; it must be a whole number"),
        ("method.rank=0", "error: method.rank is 0; it must be a whole number of at least 1"),
        ("+method.foo=1", "error: unknown key of method 'foo'"),
        ("~method.rank", "error: method.rank is missing; set method.rank=VALUE"),
        ("dataset.noise=loud", "error: dataset.noise is 'loud'; it must be a whole number"),
    ],
)
def test_wrong_values_are_one_line(folder: Path, override: str, message: str) -> None:
    code, output = run(folder, "method=outside_vera", *QUICK, override)
    assert code == 2
    [line] = [text for text in output.splitlines() if not text.startswith("warning: ")]
    assert line.startswith(message)
    assert list(folder.iterdir()) == []


def test_a_broken_package_is_a_warning_in_a_process(folder: Path) -> None:
    code, output = finished(folder, "method=outside_verra", "dataset=blobs")
    assert code == 2
    warning, error = output.splitlines()
    assert warning.startswith("warning: package 'broken_petl.conf' (entry point petlbench.conf)")
    assert error.startswith("error: unknown method 'outside_verra'; did you mean 'outside_vera'?")


def test_the_public_names_are_there(folder: Path) -> None:
    assert set(petlbench.__all__) <= {*dir(petlbench), *petlbench.__all__}
    assert all(getattr(petlbench, name) is not None for name in petlbench.__all__)
    assert set(WORKING) <= set(petlbench.names()) == set(registry.names())
