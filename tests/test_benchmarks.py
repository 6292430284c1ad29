"""The benchmarks on a tiny network: equal forms, a record, and its page."""

import json
import logging
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import (
    __main__,
    gpu,
    gpu_cases,
    last_block,
    merging,
    page,
    peak,
    prefix,
    side_state,
    steps,
    trainings,
    waiting,
)
from benchmarks.cases import CASES, FORECASTS, KEPT, MODES, Case
from benchmarks.compare import Setting, Unequal, compare
from benchmarks.textbook import DTL
from petlbench.config import compose
from petlbench.cost import forecast
from petlbench.layers import side_state as again
from petlbench.methods import dtl
from petlbench.run import build
from tests.shallow import OVERRIDES

TINY = Setting(__main__.TINY, batch=8, repeats=2, device="cpu", precision="fp32")


class Wrong(DTL):
    """DTL with another activation."""

    def theta(self, h: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        return h.relu()


@pytest.fixture(autouse=True)
def _few_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of each kind that is counted on shapes, of three blocks; the threads of the test."""
    for name, row in (("FORECASTS", FORECASTS[-1]), ("KEPT", KEPT[-1])):
        late = ["method.inject_from=2"] if row.method.startswith("dtl") else []
        own = replace(row, overrides=(*row.overrides, OVERRIDES[0], *late))
        monkeypatch.setattr(__main__, name, (own,))
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
    for name in ("FORECASTS", "KEPT"):
        monkeypatch.setattr(__main__, name, ())
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
    def ended(tree: Path, arguments: list[str]) -> trainings.Ended:
        is_now, is_sweep = tree == trainings.NOW, arguments[0] == "-m"
        about = {"versions": {"commit": "new" if is_now else "old"}, "device": "A CPU"}
        seconds = (1.0 if is_sweep else 2.0) if is_now else 4.0
        return {"dtl": about | {"seconds": seconds, "top1": 90.0, "epochs": 10}}

    monkeypatch.setattr(trainings, "run", ended)
    out = ("--out", str(tmp_path))
    run(monkeypatch, trainings.main, str(tmp_path), "--method", "dtl", "--repeats", "2", *out)
    run(monkeypatch, page.main, "--records", str(tmp_path))
    text = (tmp_path / "README.md").read_text()
    assert text.count("10 epochs. Now: commit new; before: old. A CPU, ") == 2
    alone = "| 2.0 | 4.0 | 0.500 [0.500, 0.500] | ≤ 0.65: met | 90.0 | 90.0 |"
    swept = "| 1.0 | 4.0 | 0.250 [0.250, 0.250] | ≤ 0.65: met | 90.0 | 90.0 |"
    _, part = text.split("Each method alone")
    assert [f"| `method=dtl` {row}" in part for row in (alone, swept)] == [True, True]


@pytest.mark.slow
def test_the_trainings_of_a_sweep_are_timed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (*trainings.SETTINGS, "train.epochs=1", "train.schedule.warmup_epochs=0")
    monkeypatch.setattr(trainings, "SETTINGS", settings)
    [(_, arguments)] = trainings.swept(["linear", "dtl"])
    ended = trainings.run(trainings.NOW, arguments)
    assert list(ended) == ["linear", "dtl"]
    assert all(row["epochs"] == 1 and 0 < row["seconds"] < 60 for row in ended.values())


def test_the_prefix_is_the_constant_part_of_a_step() -> None:
    step = steps.step_of(TINY, "linear")
    with torch.no_grad():
        expected = step.method.features(step.method.backbone.embed(step.images))
    assert torch.equal(prefix.prefix(step)(), expected)
    step = steps.step_of(TINY, "full")
    assert prefix.prefix(step)() is step.images


def test_what_replay_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "in_turns", lambda *_: {"step": [2.0], "prefix": [1.0]})
    [line] = prefix.lines(TINY, ["linear"])
    assert line == "linear: step 2000.0 ms, share 0.50; left 0.55 in 10 epochs, 0.51 in 100 epochs"


@pytest.mark.slow
def test_the_tensors_at_the_peak_are_the_predicted_bytes() -> None:
    overrides = ("method=linear", *TINY.network, "train.batch_size=4")
    live = peak.at_peak(overrides)
    assert sum(sum(sizes) for sizes in live.at_peak.values()) == live.peak
    config = compose.single([*peak.STEP, *overrides])
    predicted = forecast.peak_mib(
        build.on_meta(config), precision="bf16", train=config.train, batch=4, size=16
    )
    assert live.peak / 2**20 == predicted["allocated"]
    images = (peak.BEFORE, (4, 3, 16, 16), "torch.float32")
    assert live.at_peak[images] == [4 * 3 * 16 * 16 * 4]
    first, *_, last = peak.lines(live)
    assert first == f"{live.peak / 2**20:.1f} MiB, reached in {live.operation}"
    assert last.endswith("smaller ones")


def test_on_how_many_images_merging_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "in_turns", lambda *_: {"trained": [2.0], "merged": [1.0]})
    monkeypatch.setattr(merging, "process_time", iter((1.0, 3.0)).__next__)
    line = merging.line(TINY, "lora")
    assert line == "lora: merged / trained 0.500; merging takes 2.00 s, as it saves on 16 images"


def test_a_step_in_a_process_whose_threads_wait_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")

    def output(command: list[str], *, env: dict[str, str], **_: Any) -> Any:
        assert command[2:] == ["benchmarks.one_step", "3"]
        line = f"{env['GOMP_SPINCOUNT']} {'OMP_WAIT_POLICY' in env} {'OMP_NUM_THREADS' in env}\n"
        return subprocess.CompletedProcess(command, 0, line.encode())

    monkeypatch.setattr(subprocess, "run", output)
    assert waiting.measured({"GOMP_SPINCOUNT": "1000"}, 3) == "1000 False False"


def test_the_forms_of_the_side_state_leave_dtl_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    step = steps.step_of(TINY, "dtl")
    head, forms = step.method.backbone.head, side_state.forms(step)
    seen = []

    def look(_: Any) -> None:
        seen.append((dtl.DTL.features, again.called_again, type(head)))

    monkeypatch.setattr(type(step), "__call__", look)
    features, called_again, layer = dtl.DTL.features, again.called_again, type(head)
    for call in forms.values():
        call()
    assert seen == [
        (side_state.running_sum, called_again, torch.nn.Linear),
        (side_state.running_sum, called_again, layer),
        (features, side_state.kept, layer),
        (features, called_again, layer),
    ]
    assert type(head) is layer is not torch.nn.Linear


def named(*names: str) -> tuple[gpu_cases.Case, ...]:
    return tuple(case for case in gpu_cases.CASES if case.name in names)


def broken(setting: Setting) -> gpu_cases.Row:
    logging.getLogger("petlbench").warning("of a row that fails")
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nMore lines")


def measured_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: tuple[gpu_cases.Case, ...]
) -> dict[str, list[gpu_cases.Row]]:
    """The tables of a trial of the script for GPUs, and of its page."""
    monkeypatch.setattr(gpu, "CASES", cases)
    out = ("--out", str(tmp_path))
    run(monkeypatch, gpu.main, "--device", "cpu", "--quick", "--minutes", "60", *out)
    run(monkeypatch, page.main, "--records", str(tmp_path))
    tables: dict[str, list[gpu_cases.Row]] = json.loads((tmp_path / gpu.FILE).read_text())[
        "tables"
    ]
    text = (tmp_path / "README.md").read_text()
    for title, rows in tables.items():
        for row in rows:
            reason = row.get("not_run")
            line = f"{title}, {row['name']}, not run: {reason}" if reason else f"| {row['name']} |"
            assert line in text
    return tables


def test_a_row_for_gpus_that_fails_costs_no_other_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = gpu_cases.Case("Input", "broken", broken)
    cases = (fails, *named("from pinned memory", "lora, fused"))
    tables = measured_on_a_cpu(tmp_path, monkeypatch, cases)
    first, second = tables["Input"]
    reason = "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert first == {"name": "broken", "not_run": reason, "warnings": ["of a row that fails"]}
    assert (second["difference"], second["wrong_labels"]) == (0.0, 0)
    assert "warnings" not in second
    assert tables["AdamW"][0]["tensors"] > 0


def test_a_row_for_gpus_ends_though_an_alarm_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "AGAIN_S", 0.2)

    def slow(setting: Setting) -> gpu_cases.Row:
        with suppress(gpu.OutOfTime):  # as in a destructor
            time.sleep(20)
        time.sleep(20)
        return {}

    found = gpu.row(gpu_cases.Case("Compile", "slow", slow), TINY, 0.1, gpu.Warnings())
    assert found["not_run"] == "it did not end in the 0 s left"


def test_a_process_that_is_killed_leaves_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """In place of the end of the process."""

    def hang(setting: Setting) -> gpu_cases.Row:
        raise Killed

    cases = (*named("lora, fused"), gpu_cases.Case("AdamW", "hangs", hang))
    with pytest.raises(Killed):
        measured_on_a_cpu(tmp_path, monkeypatch, cases)
    first, second = json.loads((tmp_path / gpu.FILE).read_text())["tables"]["AdamW"]
    assert first["tensors"] > 0
    assert second == {"name": "hangs", "not_run": gpu.RUNNING}


def test_a_row_for_gpus_ends_when_its_time_is_over() -> None:
    def slow(setting: Setting) -> gpu_cases.Row:
        for _ in range(1000):
            with suppress(Exception):  # as a compiler that takes any error for its own
                time.sleep(0.01)
        return {}

    heard, case = gpu.Warnings(), gpu_cases.Case("Compile", "slow", slow)
    started = time.monotonic()
    assert gpu.row(case, TINY, 0.2, heard)["not_run"] == "it did not end in the 0 s left"
    assert time.monotonic() - started < 5
    assert gpu.row(case, TINY, 0.0, heard)["not_run"] == "no time was left"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_row_for_gpus_ends_though_its_time_is_over_in_a_callback() -> None:
    """Python ignores the exception of the alarm there."""
    dying = [{0}]
    watched = weakref.ref(dying[0], lambda _: time.sleep(30))

    def measure() -> None:
        dying.clear()
        assert watched() is None
        time.sleep(30)

    started = time.monotonic()
    with pytest.raises(gpu.OutOfTime), gpu.limited(0.1):
        measure()
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_all_rows_for_gpus_run_on_a_cpu_but_those_that_need_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # inductor takes minutes
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    tables = measured_on_a_cpu(tmp_path, monkeypatch, gpu_cases.CASES)
    refused = {row["name"] for rows in tables.values() for row in rows if "not_run" in row}
    assert refused == {"lora, fp16", *(f"{m}, train.compile=cuda_graphs" for m in ("lora", "dtl"))}
    for table in ("Replay", "Memory modes", "Frozen weights"):
        for method in ("full", "lora", "dtl", "linear"):
            rows = [row for row in tables[table] if row["name"].startswith(f"{method},")]
            assert len({tuple(row["losses"]) for row in rows}) <= 1, table  # equal bits on a CPU
    [pinned] = [row for row in tables["Replay"] if row["name"] == "dtl, pinned"]
    assert pinned["note"]["blocks"] > 0


def test_a_record_of_the_last_block_and_its_part_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_block, "METHODS", ("bitfit",))
    run(monkeypatch, last_block.main, "--quick", "--repeats", "2", "--out", str(tmp_path))
    record = json.loads((tmp_path / last_block.FILE).read_text())
    [row] = record["rows"]
    counts = {form: len(times) for form, times in row["seconds"].items()}
    assert counts == {"short": 2, "whole": 2, "trial": 2}
    text = "\n".join(page.last_block(record))
    assert "| `method=bitfit` |" in text
    assert f"| {row['kept']:.1f} |" in text
