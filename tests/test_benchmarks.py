"""The benchmarks on a tiny network: equal forms, a record, and its page."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import __main__, last_block, page, trainings
from benchmarks.cases import CASES, FORECASTS, KEPT, MODES, Case
from benchmarks.compare import Setting, Unequal, compare
from benchmarks.textbook import DTL

TINY = Setting(__main__.TINY, batch=8, repeats=2, device="cpu", precision="fp32")


class Wrong(DTL):
    """DTL with another activation."""

    def theta(self, h: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        return h.relu()


@pytest.fixture(autouse=True)
def _few_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of each kind that is counted on shapes, and the threads of the test."""
    monkeypatch.setattr(__main__, "FORECASTS", FORECASTS[-1:])
    monkeypatch.setattr(__main__, "KEPT", KEPT[-1:])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)


def run(monkeypatch: pytest.MonkeyPatch, main: Any, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    main()


@pytest.mark.parametrize(
    "cases", [CASES[3:4] + CASES[-1:], pytest.param(CASES, marks=pytest.mark.slow)], ids=len
)
def test_a_record_of_cases_and_its_page(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = MODES[-1:]
    monkeypatch.setattr(__main__, "CASES", cases)
    monkeypatch.setattr(__main__, "MODES", modes)
    run(monkeypatch, __main__.main, "--quick", "--repeats", "2", "--out", str(tmp_path))
    record = json.loads((tmp_path / "cpu.json").read_text())
    assert [case["name"] for case in record["cases"]] == [case.name for case in cases]
    for case in record["cases"]:
        assert [len(times) for times in case["seconds"].values()] == [2, 2]
        assert case["difference"] <= 1e-5
        assert page.kept_ratio(case) <= 1
    for row in record["modes"]:
        assert [len(row["seconds"][mode]) for mode in ("min", "fast")] == [2, 2]
    run(monkeypatch, page.main, "--records", str(tmp_path))
    text = (tmp_path / "README.md").read_text()
    for case in record["cases"]:
        assert f"| {case['name']} | `{' '.join(case['overrides'])}` |" in text
    assert all(f"| {mode.name} | `method={mode.method}` |" in text for mode in modes)


def test_one_row_is_measured_and_leaves_the_whole_record_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, __main__.main, "--quick", "--case", "Linear")
    assert "give another --out" in capsys.readouterr().err
    one = ("--quick", "--repeats", "1", "--case", "Linear", "--out", str(tmp_path))
    run(monkeypatch, __main__.main, *one)
    record = json.loads((tmp_path / "cpu.json").read_text())
    assert [row["name"] for row in (*record["cases"], *record["modes"])] == ["Linear"]


def test_forms_that_compute_something_else_are_refused() -> None:
    case = next(case for case in CASES if case.name == "DTL")
    with pytest.raises(Unequal, match=r"^DTL: logits or gradients differ by "):
        compare(replace(case, textbook=partial(Wrong, beta=100)), TINY)


def test_a_bar_is_met_up_to_its_value() -> None:
    assert page.verdict(0.76, 0.76) == "≤ 0.76: met"
    assert page.verdict(0.77, 0.76) == "≤ 0.76: not met"


def test_a_record_of_trainings_and_its_part_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(tree: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
        is_now = tree == trainings.NOW
        about = {"versions": {"commit": "new" if is_now else "old"}, "device": "A CPU"}
        return about | {"seconds": 2.0 if is_now else 4.0, "top1": 90.0, "epochs": 10}

    monkeypatch.setattr(trainings, "run", ended)
    out = ("--out", str(tmp_path))
    run(monkeypatch, trainings.main, str(tmp_path), "--method", "dtl", "--repeats", "2", *out)
    run(monkeypatch, page.main, "--records", str(tmp_path))
    text = (tmp_path / "README.md").read_text()
    assert "10 epochs; both trees take turns. Now: commit new; before: old. A CPU" in text
    row = "| 2.0 | 4.0 | 0.500 [0.500, 0.500] | ≤ 0.65: met | 90.0 | 90.0 |"
    assert f"| `method=dtl` {row}" in text


def test_a_record_of_the_last_block_and_its_part_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_block, "METHODS", ("bitfit",))
    run(monkeypatch, last_block.main, "--quick", "--repeats", "2", "--out", str(tmp_path))
    record = json.loads((tmp_path / last_block.FILE).read_text())
    [row] = record["rows"]
    assert {form: len(times) for form, times in row["seconds"].items()} == {"short": 2, "whole": 2}
    text = "\n".join(page.last_block(record))
    assert "| `method=bitfit` |" in text
    assert f"| {row['kept']:.1f} |" in text
