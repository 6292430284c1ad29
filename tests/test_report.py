"""The report on numbers computed by hand: means, ranks, marks, notes, files, errors."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from petlbench.errors import UserError
from petlbench.record import Record
from petlbench.report import latex, text
from petlbench.report.__main__ import main
from petlbench.report.table import GROUP_MEAN, TASK_MEAN, Table, build
from tests.records import record

SCORES = {
    "dtl_plus": {"digits": 90.04, "glyphs": 70.0, "land": 80.0},
    "lora": {"digits": 90.0, "glyphs": 72.0, "land": 78.0},
    "linear": {"digits": 80.0, "glyphs": 50.0, "land": 60.0},
}


def records() -> list[Record]:
    return [record(m, task, top1) for m, tasks in SCORES.items() for task, top1 in tasks.items()]


def table(found: list[Record], protocol: str = "final") -> Table:
    return build(found, suite="mini", protocol=protocol)


def column(made: Table, key: str) -> Any:
    return next(column for column in made.columns if column.key == key)


def test_rows_and_columns_are_in_the_order_of_the_suites() -> None:
    made = table(records()[::-1])
    assert made.rows == ["Linear", "LoRA", "DTL+"]
    keys = [column.key for column in made.columns]
    assert keys[:5] == ["mini/digits", "mini/glyphs", "mini/land", GROUP_MEAN, TASK_MEAN]
    assert "peak_mib" not in keys


def test_both_means_are_what_their_names_say() -> None:
    values = table(records()).values.loc["LoRA"]
    assert values[GROUP_MEAN] == pytest.approx(((90 + 72) / 2 + 78) / 2)
    assert values[TASK_MEAN] == pytest.approx((90 + 72 + 78) / 3)


def test_seeds_are_averaged_and_their_spread_is_the_sample_deviation() -> None:
    made = table([record("lora", "land", top1, seed) for seed, top1 in enumerate((70, 72, 77))])
    assert made.values.loc["LoRA", "mini/land"] == pytest.approx(73)
    assert made.spread.loc["LoRA", "mini/land"] == pytest.approx(13**0.5)
    assert "mean over 3 seeds" in made.notes[0]
    assert r"\label{tab:x-spread}" in latex.render(made, "x")


def test_ranks_are_those_of_the_printed_figures() -> None:
    made = table(records())
    digits = column(made, "mini/digits")
    assert [made.rank(row, digits) for row in made.rows] == [2 + 1 - 1, 1, 1]
    land = column(made, "mini/land")
    assert [made.rank(row, land) for row in made.rows] == [None, 2, 1]
    assert made.rank("LoRA", column(made, "train_s")) is None


def test_a_missing_cell_stays_missing_and_spoils_its_means() -> None:
    found = [r for r in records() if r["id"] != "loraland0"]
    made = table(found)
    assert made.text("LoRA", column(made, "mini/land")) == "–"
    assert made.text("LoRA", column(made, TASK_MEAN)) == "–"
    assert made.text("DTL+", column(made, TASK_MEAN)) == "80.0"


def test_a_failed_run_is_marked_with_its_reason() -> None:
    made = table([*records()[1:], record("dtl_plus", "digits", None)])
    assert made.text("DTL+", column(made, "mini/digits")) == "fail"
    assert "fail: DTL+, Digits: RuntimeError: it broke" in made.notes


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"device": "a GPU"}, r"MIXED device: .*a GPU \(LoRA\)"),
        ({"versions": {"torch": "2.6"}}, r"MIXED torch: .*2\.6 \(LoRA\)"),
        ({"checkpoint": {"tag": "vit_mini", "sha256": None}}, r"MIXED weights: .*random \(LoRA\)"),
        ({"splits": {"test": {"sha256": "other"}}}, "MIXED data: mini/land test"),
    ],
)
def test_what_differs_between_rows_is_said(change: dict[str, Any], note: str) -> None:
    found = [r for r in records() if r["id"] != "loraland0"]
    other = record("lora", "land", 78.0)
    other["provenance"] |= change
    made = table([*found, other])
    assert any(re.search(note, line) for line in made.notes), made.notes
    assert not any("MIXED" in line for line in table(records()).notes)


def test_dishonest_selection_is_said() -> None:
    made = table([record("lora", "land", 78.0, selection={"honest": False})])
    assert any("DISHONEST" in note for note in made.notes)


def test_runs_of_different_settings_are_never_averaged() -> None:
    other = record("lora", "land", 79.0, id="x")
    other["config"] = {"train": {"epochs": 10, "lr": 0.1}, "method": {"rank": 8}}
    with pytest.raises(UserError, match=r"lora vit_mini mini/land 0 0 differ in train\.lr"):
        table([*records(), other])


def test_protocols_are_never_mixed() -> None:
    found = [*records(), record("lora", "land", 99.0, protocol="trial", id="t")]
    made = table(found)
    assert made.values.loc["LoRA", "mini/land"] == 78
    assert any("1 records of other suites or protocols" in note for note in made.notes)
    with pytest.raises(UserError, match=r"protocol among the records 'audit'.*final, trial"):
        table(found, protocol="audit")


def test_latex_rows_have_one_number_of_columns_and_escape_what_is_special() -> None:
    found = [*records(), record("a_b & 50%", "land", 70.0)]
    source = latex.render(table(found), "x")
    body = source.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    columns = len(re.findall("c", re.search(r"tabular\}\{l(c+)\}", source)[1])) + 1  # type: ignore[index]
    assert {len(re.split(r"(?<!\\)&", line)) for line in body} == {columns}
    assert r"a\_b \& 50\%" in source
    assert r"\textbf{80.0}" in source
    assert r"\underline{78.0}" in source
    assert source.count(r"\begin{") == source.count(r"\end{")
    assert source.count("{") - source.count(r"\{") == source.count("}") - source.count(r"\}")


def test_markdown_marks_best_and_second() -> None:
    lines = text.markdown(table(records())).splitlines()
    assert lines[0].startswith("|  | Digits | Glyphs | Land | group mean | task mean |")
    assert lines[4].startswith("| DTL+ | **90.0** | <u>70.0</u> | **80.0** |")
    assert len({line.count("|") for line in lines[:5]}) == 1


def test_the_command_writes_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for made in records():
        (tmp_path / f"{made['id']}.json").write_text(json.dumps(made))
    out = tmp_path / "out"
    assert main(["--records", str(tmp_path), "--name", "t", "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"t.csv", "t_tidy.csv", "t.tex", "t.md"}
    wide = pd.read_csv(out / "t.csv", index_col="method")
    assert wide.loc["LoRA", "mini/land"] == 78
    tidy = pd.read_csv(out / "t_tidy.csv")
    assert len(tidy) == 9
    assert tidy.set_index("id").loc["loraland0", "top1"] == 78
    told = capsys.readouterr().out
    assert "LoRA" in told
    assert "one seed" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--records", "none"], "no folder 'none'"),
        (["--records", "."], "no records in .; python -m petlbench -m"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--name", "t", "--out", "out"]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
