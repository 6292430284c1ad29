"""Reports on numbers computed by hand: means, ranks, marks, notes, files, errors."""

import copy
import errno
import io
import itertools
import os
import re
import shutil
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from petlbench.errors import UserError
from petlbench.report.__main__ import main
from petlbench.report.draw import text as text_of_figures
from petlbench.report.model.report import Report
from petlbench.report.model.table import Column, Table, headed
from petlbench.report.read.costs import memory_key
from petlbench.report.read.means import GROUP_MEAN, TASK_MEAN
from petlbench.report.read.records import read
from petlbench.report.read.rows import members
from petlbench.report.registry import build, find, names
from petlbench.report.render import files, latex, markdown, terminal
from petlbench.report.table import costs
from petlbench.run.record import Record
from tests.records import keep, record

SCORES = {
    "dtl_plus": {"digits": 90.04, "glyphs": 70.0, "land": 80.0},
    "lora": {"digits": 90.0, "glyphs": 72.0, "land": 78.0},
    "linear": {"digits": 80.0, "glyphs": 50.0, "land": 60.0},
}
NASTY = r"a_b & 50% $x$ {y} #1 ~^ \z <w> | [v] *"
PEAK = {"allocated": 512.0}


def records() -> list[Record]:
    return [record(m, task, top1) for m, tasks in SCORES.items() for task, top1 in tasks.items()]


def without(identifier: str) -> list[Record]:
    return [run for run in records() if run["id"] != identifier]


def changed(run: Record, part: str, **changes: Any) -> Record:
    run = copy.deepcopy(run)
    run[part] |= changes
    return run


def report(runs: list[Record], protocol: str = "final", suite: str | None = None) -> Report:
    spec = replace(find("table"), protocol=protocol, suite=suite)
    return build(runs, spec)


def table(runs: list[Record], protocol: str = "final", suite: str | None = None) -> Table:
    return report(runs, protocol, suite).tables[0]


def report_of(result: Table) -> Report:
    return Report("a title", [result], result.values)


def column(result: Table, key: str) -> Column:
    return next(column for column in result.columns if column.key == key)


def ranks(result: Table, key: str) -> list[int | None]:
    return [result.rank(row, column(result, key)) for row in result.rows]


def vtab() -> list[Record]:
    """Two methods on the 19 tasks of VTAB-1K."""
    runs = []
    for place, task in enumerate(members("dataset", "vtab")):
        group = ("natural", "specialized", "structured")[(place > 6) + (place > 10)]
        for method in ("linear", "lora"):
            run = record(method, "land", 50.0 + place, suite="vtab", group=group, id=method + task)
            run["factors"]["task"], run["task_title"] = task, task.split("/")[1][:10]
            runs.append(run)
    return runs


def test_rows_and_columns_are_in_the_order_of_the_suites() -> None:
    result = table([record("zeta", "land", 1.0), record("alpha", "land", 1.0), *records()[::-1]])
    assert result.rows == ["Linear", "LoRA", "DTL+", "alpha", "zeta"]
    keys = [column.key for column in result.columns]
    assert keys[:5] == ["mini/digits", "mini/glyphs", "mini/land", GROUP_MEAN, TASK_MEAN]


def test_a_suite_of_the_users_own_keeps_the_order_of_its_records_and_its_groups_together() -> None:
    runs = [record("lora", task, 1.0, suite="own") for task in ("land", "glyphs", "digits")]
    runs[0]["group"] = "natural"
    runs[1]["group"] = "other"
    result = table(runs, suite="own")
    assert [c.key for c in result.columns][:3] == ["mini/land", "mini/digits", "mini/glyphs"]


def test_both_means_by_hand() -> None:
    values = table(records()).values.loc["LoRA"]
    assert values[GROUP_MEAN] == pytest.approx(((90 + 72) / 2 + 78) / 2)
    assert values[TASK_MEAN] == pytest.approx((90 + 72 + 78) / 3)


def test_seeds_are_averaged_and_their_spread_is_the_sample_deviation() -> None:
    result = table([record("lora", "land", top1, seed) for seed, top1 in enumerate((70, 72, 77))])
    assert result.values.loc["LoRA", "mini/land"] == pytest.approx(73)
    assert result.spread.loc["LoRA", "mini/land"] == pytest.approx(13**0.5)
    assert "mean over 3 seeds" in result.notes[0]
    assert r"\label{tab:x-spread}" in latex.render(report_of(result), "x")
    assert markdown.render(report_of(result)).rstrip().endswith("| LoRA | 3.6 | 3.6 | 3.6 |")


def test_one_seed_has_no_spread_and_is_noted() -> None:
    result = table(records())
    assert "one seed" in result.notes[0]
    assert "-spread" not in latex.render(report_of(result), "x")
    assert "deviation" not in markdown.render(report_of(result))


def test_unequal_numbers_of_runs_are_noted() -> None:
    result = table([*records(), record("lora", "land", 80.0, seed=1)])
    assert result.spread_rows == ["LoRA"]  # a row of single runs would have dashes only
    assert result.values.loc["LoRA", "mini/land"] == 79
    assert "1 to 2 runs in a cell" in result.notes[0]
    others = [record("lora", "land", 80.0), record("linear", "land", 80.0, seed=1)]
    assert "mean over 2 seeds, 1 run in a cell;" in table(others).notes[0]


def test_ranks_are_those_of_the_printed_figures() -> None:
    result = table(records())
    assert ranks(result, "mini/digits") == [2, 1, 1]
    assert ranks(result, "mini/land") == [None, 2, 1]
    assert ranks(result, TASK_MEAN) == [2, 1, 1]
    assert ranks(result, GROUP_MEAN) == [None, 2, 1]
    assert ranks(result, "train_s") == [None] * 3


def test_figures_that_print_equal_share_a_rank() -> None:
    result = table([record("linear", "land", 70.25), record("lora", "land", 70.15)])
    shown = [result.text(row, column(result, "mini/land")) for row in result.rows]
    assert (shown[0] == shown[1]) == (ranks(result, "mini/land") == [1, 1])


def test_a_lone_row_has_no_best() -> None:
    assert ranks(table([record("lora", "land", 70.0)]), "mini/land") == [None]


def test_a_missing_cell_stays_missing_and_spoils_its_means() -> None:
    result = table(without("loraland0"))
    assert [result.text("LoRA", column(result, key)) for key in ("mini/land", TASK_MEAN)] == [
        "–"
    ] * 2
    assert result.text("LoRA", column(result, GROUP_MEAN)) == "–"
    assert result.text("DTL+", column(result, TASK_MEAN)) == "80.0"
    assert any("Rows without all tasks have no means" in note for note in result.notes)
    assert any("no records of mini/cells" in note for note in result.notes)


@pytest.mark.parametrize(
    ("status", "mark"),
    [("failed", "fail"), ("diverged", "div."), ("out_of_memory", "oom"), ("unsupported", "n/a")],
)
def test_a_run_without_a_score_is_marked_with_its_reason(status: str, mark: str) -> None:
    lost = record("dtl_plus", "digits", None, status=status, cost={}, provenance={}, selection={})
    result = table([*records()[1:], lost])
    assert result.text("DTL+", column(result, "mini/digits")) == mark
    assert result.text("DTL+", column(result, TASK_MEAN)) == "–"
    assert f"{mark}: DTL+ on Digits (seed 0): RuntimeError: it broke" in result.notes


def test_reasons_are_gathered_over_tasks_and_seeds() -> None:
    lost = [record("lora", task, None, seed) for task in ("digits", "land") for seed in (0, 1)]
    reason = "fail: LoRA on Digits (seed 0 1), Land (seed 0 1): RuntimeError: it broke"
    assert reason in table(lost).notes


def test_a_table_of_failures_only_is_still_a_table() -> None:
    lost = [record(m, "land", None, cost={}, provenance={}, selection={}) for m in SCORES]
    result = table(lost)
    assert {result.text(row, column(result, "mini/land")) for row in result.rows} == {"fail"}
    assert "no finished run" in result.notes[0]
    assert "fail" in latex.render(report_of(result), "x")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"device": "a GPU"}, "LoRA: device a GPU, elsewhere a CPU, 2 threads."),
        ({"versions": {"torch": "2.6"}}, "LoRA: torch 2.6, elsewhere 2.14.1."),
        (
            {"checkpoint": {"tag": "vit_mini", "sha256": None}},
            "LoRA: weights vit_mini random, elsewhere vit_mini 0c0e49b30c0e.",
        ),
    ],
)
def test_a_row_of_another_provenance_has_a_footnote(change: dict[str, Any], note: str) -> None:
    result = table(
        [*without("loraland0"), changed(record("lora", "land", 78), "provenance", **change)]
    )
    assert [footnote.text for footnote in result.footnotes] == [note]
    assert result.letters("LoRA") == "a"
    assert result.letters("DTL+") == ""
    assert r"LoRA\textsuperscript{a} &" in latex.render(report_of(result), "x")
    assert "| LoRA<sup>a</sup> |" in markdown.render(report_of(result))
    assert table(records()).footnotes == []


def test_other_epochs_have_a_footnote() -> None:
    runs = records()
    for run in runs[:3]:
        run["config"]["train"]["epochs"] = 5
    assert [f.text for f in table(runs).footnotes] == ["DTL+: epochs 5, elsewhere 10."]


def test_backbones_are_never_mixed() -> None:
    runs = records()
    for other in runs[:3]:
        other["factors"]["backbone"] = "swin_b"
    with pytest.raises(UserError, match=r"have 2 \(swin_b, vit_mini\); add --backbone swin_b"):
        table(runs)
    spec = replace(find("table"), backbone="vit_mini")
    result = build(runs, spec).tables[0]
    assert result.rows == ["Linear", "LoRA"]
    assert "Excluded: 3 records of other backbones (swin_b)." in result.notes
    with pytest.raises(UserError, match=r"backbone among the records 'vit_b16'.*swin_b, vit_mini"):
        build(runs, replace(spec, backbone="vit_b16"))


def test_a_column_of_mixed_data_has_a_footnote() -> None:
    other = changed(record("lora", "land", 78), "provenance", splits={"test": {"sha256": "other"}})
    result = table([*without("loraland0"), other])
    assert result.letters("mini/land") == "a"
    assert "sha256 data of land (DTL+, Linear); sha256 other (LoRA)" in result.lines()[-1]


def test_rows_of_another_normalisation_or_pooling_have_a_footnote() -> None:
    usual = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "pool": "cls"}
    other = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "pool": "norm_then_mean"}
    result = table(
        [
            changed(run, "config", backbone=other if run["title"] == "LoRA" else usual)
            for run in records()
        ]
    )
    assert [note.text for note in result.footnotes] == [
        "LoRA: normalisation 0.485 0.456 0.406 / 0.229 0.224 0.225, "
        "elsewhere 0.5 0.5 0.5 / 0.5 0.5 0.5.",
        "LoRA: pooling norm_then_mean, elsewhere cls.",
    ]


def test_selection_on_the_test_set_is_noted() -> None:
    scores = {name: {"top1": top1, "total": 9} for name, top1 in (("test", 78), ("test@best", 99))}
    runs = [*without("loraland0"), record("lora", "land", 78.0, scores=scores)]
    runs[-1]["selection"] = {"honest": False}
    result = table(runs)
    assert result.values.loc["LoRA", "mini/land"] == 78
    assert result.footnotes[0].text == "The epoch was chosen on the test set."
    assert result.footnotes[0].of == ("LoRA",)


@pytest.mark.parametrize("seed", [0, 1])
def test_runs_of_different_settings_are_never_averaged(seed: int) -> None:
    other = changed(record("lora", "land", 79.0, seed, id="x"), "config", train={"lr": 0.1})
    cell = "method=lora backbone=vit_mini task=mini/land"
    with pytest.raises(UserError, match=rf"runs of {cell}.* train\.lr \(0\.01, 0\.1\)") as error:
        table([*records(), other])
    assert "\n" not in str(error.value)


def test_a_record_from_before_a_key_averages_with_later_ones(tmp_path: Path) -> None:
    """A key that a later version added has a neutral value, which its absence stands for."""
    early, late = (record("lora", "land", 78.0 + seed, seed) for seed in (0, 1))
    for run in (early, late):
        run["config"]["backbone"] = {"name": "vit_mini"}
    late["config"]["backbone"] |= {"fused_attention": True, "head_start": "small_normal"}
    late["provenance"]["attention"] = "fused"
    runs = read([keep([early, late], tmp_path / "a")])
    assert table(runs).values.loc["LoRA", "mini/land"] == 78.5
    assert not table(runs).footnotes  # a value missing from a record is no difference
    late["config"]["backbone"]["fused_attention"] = False
    with pytest.raises(UserError, match=r"backbone\.fused_attention \(True, False\)"):
        table(read([keep([early, late], tmp_path / "b")]))


def test_settings_that_change_between_tasks_are_noted() -> None:
    other = changed(record("lora", "land", 78.0), "config", method={"rank": 4})
    result = table([*without("loraland0"), other])
    assert "LoRA: method.rank differs between tasks." in result.notes


def test_methods_that_share_a_title_keep_their_rows() -> None:
    runs = [record("lora", "land", 70.0), record("linear", "land", 60.0, title="LoRA")]
    assert table(runs).rows == ["LoRA [linear]", "LoRA [lora]"]


def test_protocols_are_never_mixed() -> None:
    runs = [*records(), record("lora", "land", 99.0, protocol="trial", id="t")]
    result = table(runs)
    assert result.values.loc["LoRA", "mini/land"] == 78
    assert "Excluded: 1 record of other protocols (trial)." in result.notes
    with pytest.raises(UserError, match=r"protocol=audit, .* has protocol=final, trial; give"):
        table(runs, protocol="audit")


def test_the_choice_of_an_epoch_on_the_test_set_is_a_column_of_its_own() -> None:
    gains = {"land": 1.5, "digits": 0.5}
    runs = []
    for task, gain in gains.items():
        scores = {"test": {"top1": 70.0}, "test@best": {"top1": 70.0 + gain}}
        runs.append(record("lora", task, 70.0, protocol="audit", scores=scores))
    runs.append(record("linear", "land", 60.0, protocol="audit"))
    result = table(runs, protocol="audit")
    assert result.values.loc["LoRA", "inflation"] == 1.0
    assert pd.isna(result.values.loc["Linear", "inflation"])
    assert result.values.loc["LoRA", TASK_MEAN] == 70.0
    assert any(note.startswith("Best epoch on test: gain of choosing") for note in result.notes)
    assert "inflation" not in table(records()).values


def test_memory_is_the_peak_only_where_all_runs_have_it() -> None:
    keys = [column.key for column in table(records()).columns]
    assert "saved_mb" in keys
    assert "peak_mib" not in keys
    runs = [changed(run, "cost", peak_mib=PEAK) for run in records()]
    result = table(runs)
    assert result.text("LoRA", column(result, "peak_mib")) == "512"
    mixed = table([*runs[1:], records()[0]])
    assert "peak_mib" not in [column.key for column in mixed.columns]


def test_costs_are_means_over_runs() -> None:
    runs = [changed(run, "cost", train_s=float(n)) for n, run in enumerate(records())]
    result = table(runs)
    assert result.values.loc["LoRA", "train_s"] == pytest.approx((3 + 4 + 5) / 3)
    assert result.text("LoRA", column(result, "parameters_m")) == "0.037"


def rows_of(source: str) -> list[str]:
    body = source.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    return [line for line in body.strip().splitlines() if "&" in line]


def test_latex_is_well_formed_whatever_the_titles_and_reasons_hold() -> None:
    lost = record("dtl", "land", None, title=f"*{NASTY}", reason=f"{NASTY} → \u2603")
    runs = [*records(), lost, record("lora", "land", 80.0, seed=1)]
    source = latex.render(report(runs), "x", "a\ncommand")
    assert source.startswith("% made by a command\n")
    for part in source.split(r"\begin{table*}")[1:]:
        spec = re.search(r"\\begin\{tabular\}\{l(c+)\}", part)
        assert spec
        columns = len(spec[1]) + 1
        names = next(line for line in part.splitlines() if r"\rotatebox" in line)
        for line in [names, *rows_of(part)]:
            assert len(re.split(r"(?<!\\)&", line)) == columns
            assert line.endswith(r" \\")
        rules = re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", part)
        covered = [n for first, last in rules for n in range(int(first), int(last) + 1)]
        assert covered == list(range(2, columns + 1))
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}\{c\}", part)]
        assert sum(spans) == columns - 1
    begun = re.findall(r"\\begin\{([a-z*]+)\}", source)
    assert sorted(begun) == sorted(re.findall(r"\\end\{([a-z*]+)\}", source))
    assert len(re.findall(r"(?<!\\)\{", source)) == len(re.findall(r"(?<!\\)\}", source))
    assert r"a\_b \& 50\% \$x\$ \{y\} \#1" in source
    assert r"{}*a\_b" in source
    transliterated = re.sub(r"\\otherscript\{[^{}]*\}", "", source)
    assert not re.search(r"[^\x00-\xff]", transliterated)


def test_rows_stand_under_the_head_of_their_family() -> None:
    result = table(records())
    assert [section for section, _ in result.parts()] == ["traditional methods", "PETL methods"]
    assert [row for _, rows in result.parts() for row in rows] == result.rows
    source = latex.render(report_of(result), "x")
    assert source.index("Traditional methods") < source.index("PETL methods")
    assert "PETL" in shown(result, 100)
    alone = table([record("lora", "land", 80.0)])
    assert alone.parts() == [("", alone.rows)]


def test_latex_of_a_table_longer_than_a_page_is_several_floats() -> None:
    """A float does not break; neither do its notes, which follow as text."""
    runs = [
        record(f"m{n:02}", task, 80.0 + n / 9) for n in range(99) for task in ("land", "digits")
    ]
    runs += [
        run | {"factors": run["factors"] | {"seed": 1}, "id": f"{run['id']}b"} for run in runs
    ]
    source = latex.render(report(runs), "x")
    floats = [part.split(r"\end{table*}")[0] for part in source.split(r"\begin{table*}")[1:]]
    rows = [[line.split(" &")[0] for line in rows_of(part)] for part in floats]
    assert [len(part) for part in rows] == [34, 34, 31] * 2  # scores, then deviations
    assert sorted(itertools.chain(*rows[:3])) == [f"m{n:02}" for n in range(99)]
    labels = re.findall(r"\\label\{tab:(.*)\}", source)
    assert labels == ["x", "x-2", "x-3", "x-spread", "x-spread-2", "x-spread-3"]
    assert "minipage" not in source
    assert source.count(r"\noindent Top-1 accuracy in percent on test") == 1


def test_latex_marks_best_and_second() -> None:
    line = next(line for line in rows_of(latex.render(report(records()), "x")) if "DTL+" in line)
    assert line.startswith(r"DTL+ & \textbf{90.0} & \underline{70.0} & \textbf{80.0} & ")


def test_markdown_marks_best_and_second() -> None:
    lines = markdown.render(report(records())).splitlines()[2:]
    assert lines[0].startswith("|  | Natural |  | Specialized | Mean |  | Cost |")
    assert lines[2].startswith(
        "| **method** | **Digits** | **Glyphs** | **Land** | **group mean**"
    )
    assert lines[3].startswith("| *traditional methods* |  |")
    assert lines[5].startswith("| *PETL methods* |  |")
    assert lines[7].startswith("| DTL+ | **90.0** | <u>70.0</u> | **80.0** |")
    assert len({line.count("|") for line in lines[:8]}) == 1


def test_markdown_escapes_what_titles_and_reasons_hold() -> None:
    lines = markdown.render(report([record("lora", "land", None, title="a|b*", reason="<c>_d_")]))
    assert r"| a\|b\* | fail |" in lines
    assert r"a\|b\* on Land (seed 0): \<c\>\_d\_" in lines


def shown(result: Table, width: int) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="standard"
    )
    for part in terminal.render(result, width):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 100, 120])
def test_the_terminal_shows_every_column_of_a_wide_suite(width: int) -> None:
    result = table(vtab(), suite="vtab")
    output = re.sub(r"\x1b\[[0-9;]*m", "", shown(result, width))
    assert max(map(len, output.splitlines())) <= width
    assert "…" not in output
    for task in result.columns[:19]:
        assert task.title in output


def test_a_long_name_cuts_no_figure_of_the_terminal() -> None:
    names = {"lora": "a" * 200 + "/end.png", "linear": "猫" * 200, "full": "Full"}
    runs = [record(m, "land", 80.0 + n) for n, m in enumerate(names)]
    for run in runs:
        run["title"] = names[run["factors"]["method"]]
    output = re.sub(r"\x1b\[[0-9;]*m", "", shown(table(runs), 110))
    lines = [line for line in output.splitlines() if line.startswith(("aaa", "猫", "Full"))]
    assert max(map(cell_len, output.splitlines())) <= 110
    figures = {line[0]: line.split()[1:] for line in lines[:3]}
    assert figures == {"a": ["80.0"] * 3, "猫": ["81.0"] * 3, "F": ["82.0"] * 3}
    assert "a…aaaaaaaaaaaaaaaaaaaaa/end.png " in output


def test_the_terminal_marks_best_and_second() -> None:
    output = shown(table(records()), 100)
    assert "\x1b[1m80.0\x1b[0m" in output
    assert "\x1b[4m78.0\x1b[0m" in output


FILES = {"t.csv", "t_tidy.csv", "t.tex", "t.md", "t.html", "t_tradeoff.png", "t_tradeoff.pdf"}


def command(folder: Path, out: Path, *more: str) -> int:
    return main(["table", "--records", str(folder), "--name", "t", "--out", str(out), *more])


def test_the_command_writes_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert command(keep(records(), tmp_path / "runs"), out) == 0
    assert {path.name for path in out.iterdir()} == FILES
    wide = pd.read_csv(out / "t.csv", index_col="method")
    result = table(records())
    keys = [column.key for column in result.columns]
    pd.testing.assert_frame_equal(
        wide[keys], result.values[keys], check_names=False, check_dtype=False
    )
    tidy = pd.read_csv(out / "t_tidy.csv")
    assert dict(zip(tidy["id"], tidy["top1"], strict=True)) == pytest.approx(
        {run["id"]: run["scores"]["test"]["top1"] for run in records()}
    )
    output = capsys.readouterr().out
    assert "LoRA" in output
    assert "one seed" in output
    assert f"wrote {out / 't.tex'}" in output


def test_a_run_in_two_folders_counts_once_and_as_finished(tmp_path: Path) -> None:
    lost = record("lora", "land", None)
    folders = [keep(records(), tmp_path / "a"), keep([lost], tmp_path / "b")]
    for order in (folders, folders[::-1]):
        given = [
            "table",
            "--records",
            *map(str, order),
            "--name",
            "t",
            "--out",
            str(tmp_path / "out"),
        ]
        assert main(given) == 0
        tidy = pd.read_csv(tmp_path / "out" / "t_tidy.csv")
        assert list(tidy.loc[tidy["id"] == "loraland0", "top1"]) == [78]


def test_an_option_that_is_given_twice_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders and methods come together; one value of two is refused."""
    for method in ("lora", "linear"):
        keep([one for one in records() if one["factors"]["method"] == method], tmp_path / method)
    folders = ["--records", str(tmp_path / "lora"), "--records", str(tmp_path / "linear")]
    assert main(["leaderboard", *folders, "--out", str(tmp_path)]) == 0
    rows = ["--methods", "lora", "--methods", "linear"]
    assert main(["leaderboard", *folders, *rows, "--out", str(tmp_path)]) == 0
    assert list(pd.read_csv(tmp_path / "leaderboard.csv").iloc[:, 0]) == ["LoRA", "Linear"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["leaderboard", *folders, "--out", "a", "--out", "b"])
    line = "error: argument --out: given twice; petlbench report --help shows the options\n"
    assert capsys.readouterr().err == line


def test_methods_select_the_rows_of_a_table(tmp_path: Path) -> None:
    keep(records(), tmp_path / "runs")
    given = ["leaderboard", "--records", str(tmp_path / "runs"), "--out", str(tmp_path)]
    for chosen in (["lora,linear"], ["linear", "lora"], ["lora, ", "linear"]):
        assert main([*given, "--methods", *chosen]) == 0
        written = pd.read_csv(tmp_path / "leaderboard.csv")
        assert list(written.iloc[:, 0]) == ["LoRA", "Linear"]
        # against the rows that are there, not against DTL+
        assert list(written["average_rank"]) == [1, 2]
    one = replace(find("table"), methods=("dtl_plus",))
    assert build(records(), one).tables[0].rows == ["DTL+"]
    probed = record("dtl", "land", 1.0, protocol="probe")
    with pytest.raises(UserError, match="names dtl, with no final record of mini on vit_mini"):
        build([*records(), probed], replace(one, methods=("lora", "dtl")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--records", "none"], "--records 'none' is not a folder; give the results.root"),
        (["--records", "x" * 300], "x': File name too long; give another path"),
        (["--records", "~none/x"], "--records is '~none/x': Could not determine home directory;"),
        (["--records", ""], "--records is empty; give it a value"),
        (["--records", "empty"], "--records empty holds no records; python -m petlbench -m"),
        (
            ["--suite", "vtap"],
            "of runs with dataset=vtap, and --records has dataset=mini; give",
        ),
        (["--protocol", "finale"], "has protocol=final; did you mean --protocol final?"),
        (["--name", "a/b"], "--name 'a/b' is not a file name; use at most 200 letters"),
        (["--name", "x" * 201], "is not a file name; use at most 200 letters"),
        (["--name", ""], "--name is empty; give it a value or leave it out"),
        (["--name", "a\nb"], "--name 'a b' is not a file name"),
        (["--out", "\udcff"], r"--out '\udcff' is not UTF-8"),
        (["--backbone", ""], "--backbone is empty; give it a value or leave it out"),
        (["--methods", "lora", "dlt"], "unknown method among the records 'dlt'; Known: "),
        (["--methods", ","], "--methods names no method; give names such as lora"),
        (["--vary", "train"], "--vary 'train' is a node, not a value; its values: train.epochs"),
        (["--vary", "method.rnak"], "has a value of this key; did you mean 'method.rank'?"),
        (["--vary", "method.rank.x"], "--vary 'method.rank.x': no record has a value of this key"),
        (["--backbone", "vit"], "unknown backbone among the records 'vit'"),
        (["--records", "broken"], "record 'broken/0.json' is broken: cost, factors.seed missing"),
        (["--records", "cut"], "record 'cut/0.json' cannot be read"),
        (["--records", "later"], "record 'later/0.json' has schema 2, this petlbench reads 1"),
        (["--out", "runs/0.json"], "--out 'runs/0.json' cannot be written (Not a directory)"),
        (["--out", "runs/0.json/x"], "--out 'runs/0.json/x' cannot be written (Not a directory)"),
        (["--out", "x" * 300], "x': File name too long; give another path"),
        (["--out", "~none/x"], "--out is '~none/x': Could not determine home directory;"),
        (["--out", ""], "--out is empty; give it a value or leave it out"),
        (["--records", "none", "--out", "runs/0.json"], "--out 'runs/0.json' cannot be written"),
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
    os.mkdir("empty")
    keep(records(), tmp_path / "runs")
    broken = record("lora", "land", 1.0, cost=None)
    del broken["factors"]["seed"]
    keep([broken], tmp_path / "broken")
    keep([record("lora", "land", 1.0, schema=2)], tmp_path / "later")
    keep([], tmp_path / "cut").joinpath("0.json").write_text('{"schema": 1, "id')
    usual = {"--records": "runs", "--name": "t", "--out": "out"}
    others = [text for pair in usual.items() if pair[0] not in arguments for text in pair]
    assert main(["table", *others, *arguments]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: NAME, --out"),
        (["table", "--out"], "argument --out: expected one argument"),
        (
            ["table", "--out", "out", "--backbnoe", "x"],
            "unknown option '--backbnoe'; did you mean '--backbone'?",
        ),
    ],
)
def test_mistakes_of_the_command_line_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main(arguments)
    assert exit_status.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {message}")
    assert told.endswith("; petlbench report --help shows the options\n")


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = keep(records(), tmp_path / "runs")
    monkeypatch.setattr(os, "replace", refuse)
    assert command(folder, tmp_path / "out") == 2
    output = capsys.readouterr()
    assert "No space left on device" in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert not list((tmp_path / "out").iterdir())


def test_the_help_lists_every_report(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    output = capsys.readouterr().out
    for name, title in names().items():
        assert re.search(rf"^  {name} +{re.escape(title)}$", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("scores.test", None),
        ("scores.test.top1", "abc"),
        ("scores.test.top1", float("nan")),
        ("scores", {}),
        ("provenance.device", None),
        ("provenance.versions", None),
        ("provenance.checkpoint", "vit_mini"),
        ("provenance.splits.test", "0c0e49"),
        ("cost.parameters.method", "x"),
        ("cost.saved_mb", float("inf")),
        ("cost.inference", [3]),
        ("config.train", None),
        ("config.protocol", "final"),
        ("config.method", ["lora"]),
        ("status", "done"),
    ],
)
def test_a_record_that_is_broken_inside_is_named(
    place: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy.deepcopy(record("lora", "land", 1.0))
    *above, key = place.split(".")
    node = run
    for part in above:
        node = node[part]
    node[key] = value
    folder = keep([run], tmp_path / "runs")
    assert command(folder, tmp_path / "out") == 2
    output = capsys.readouterr().err
    assert f"record '{folder}/0.json' is broken: {place}" in output
    assert output.count("\n") == 1


def test_a_null_node_of_the_configuration_is_an_absent_one(tmp_path: Path) -> None:
    runs = [record("lora", "land", 1.0)]
    runs[0]["config"] |= {"backbone": None, "dataset": None, "protocol": None}
    [again] = read([keep(runs, tmp_path)])
    assert again["config"].keys() == {"train", "method"}


def test_seeds_of_different_data_are_never_averaged() -> None:
    runs = [record("lora", "digits", 70.0 + seed, seed) for seed in (0, 1)]
    for run, share in zip(runs, (0.1, 0.5), strict=True):
        run["config"]["dataset"] = {"val_share": share, "root": f"/a{share}", "draw": run["id"]}
    with pytest.raises(UserError, match=r"dataset\.val_share \(0\.1, 0\.5\)"):
        table(runs)
    runs[1]["config"]["dataset"]["val_share"] = 0.1
    assert table(runs).values.loc["LoRA", "mini/digits"] == 70.5


def test_draws_differ_in_their_training_list_and_in_nothing_else() -> None:
    """A mean over draws is one of other training images and of the same test."""
    runs = [record("lora", "digits", 70.0 + seed, seed) for seed in range(4)]
    for number, run in enumerate(runs):
        run["factors"]["draw"] = run["config"]["seed"] = number % 2
        run["factors"]["seed"] = number // 2
        splits = {"trainval": str(number % 2), "test": "t"}
        run["config"]["contents"] = {"splits": splits}
    assert table(runs).values.loc["LoRA", "mini/digits"] == 71.5
    other = copy.deepcopy(runs)
    other[3]["config"]["contents"]["splits"]["trainval"] = "other"
    with pytest.raises(UserError, match=r"contents\.splits\.trainval \(1, other\)"):
        table(other)
    runs[1]["config"]["contents"]["splits"]["test"] = "u"
    with pytest.raises(UserError, match=r"contents\.splits\.test \(t, u\)"):
        table(runs)


@pytest.mark.parametrize(
    ("peaks", "key"),
    [([100.0, 200.0], "peak_mib"), ([100.0, None], "saved_mb"), ([None, None], "saved_mb")],
)
def test_a_method_without_a_training_step_does_not_choose_the_column_of_memory(
    peaks: list[float | None], key: str
) -> None:
    """k-NN has no peak on a GPU either."""
    frame = pd.DataFrame({"saved_mb": [5.0, 6.0, 0.0], "peak_mib": [*peaks, None]})
    assert memory_key(frame) == key
    assert memory_key(frame[2:]) == memory_key(frame[:0]) == "saved_mb"


def test_folds_differ_in_their_test_images_too_and_are_averaged() -> None:
    runs = [record("lora", "digits", 70.0 + fold) for fold in range(3)]
    for fold, run in enumerate(runs):
        run["id"], run["factors"]["draw"] = f"fold {fold}", fold
        run["config"]["dataset"] = {"folds": 3, "fold": fold}
        splits = {"trainval": str(fold), "test": f"{fold} too"}
        run["config"]["contents"] = {"splits": splits}
    result = table(runs)
    assert result.values.loc["LoRA", "mini/digits"] == 71.0
    assert any("one seed and 3 folds" in note for note in result.notes)
    runs[1]["config"]["dataset"]["folds"] = 4
    with pytest.raises(UserError, match=r"dataset\.folds \(3, 4\)"):
        table(runs)


def test_a_named_suite_shows_the_tasks_that_no_record_is_of() -> None:
    result = table(records(), suite="mini")
    assert [c.title for c in result.columns[:8]][1:4] == ["Glyphs", "Land", "Cells"]
    assert result.columns[3].group == "specialized"
    for key in ("mini/cells", GROUP_MEAN, TASK_MEAN):
        assert {result.text(row, column(result, key)) for row in result.rows} == {"–"}
    assert any(note.startswith("No records of mini/cells") for note in result.notes)


def test_means_of_fewer_tasks_stand_beside_no_published_ones() -> None:
    files = ("dtl_aaai2024/table2_vtab_vit_b16",)
    few = [run for run in vtab() if run["factors"]["task"] in members("dataset", "vtab")[:4]]
    spec = replace(find("table"), published=files)
    result = build(few, spec).tables[0]
    assert not pd.isna(result.values.loc["LoRA", GROUP_MEAN])
    assert pd.isna(result.values.loc["LoRA (DTL paper, Table 2)", GROUP_MEAN])


def test_two_published_files_share_one_column_of_memory() -> None:
    files = ("dtl_aaai2024/table2_vtab_vit_b16", "dtl_aaai2024/table5_ablation_vit_b16")
    result = build(vtab(), replace(find("table"), published=files)).tables[0]
    assert [c.key for c in result.columns].count("memory_gb") == 1
    assert result.values.loc["SSF (DTL paper, Table 2)", "memory_gb"] == 4.9


def test_the_training_setup_is_noted_and_deviations_have_footnotes() -> None:
    runs = records()
    for run in runs:
        run["config"]["train"] |= {"batch_size": 32, "optimizer": "adamw"}
        run["config"]["input"] = {"size": 48}
        run["provenance"]["attention"] = "fused"
    text = table(runs).notes[1]
    assert "; training batch 32, 48 px, fused attention, adamw; " in text
    for run in runs[:3]:
        run["config"]["train"] |= {"batch_size": 64, "optimizer": "sgd"}
        run["config"]["input"] = {"size": 96}
    assert [note.text for note in table(runs).footnotes] == [
        "DTL+: training batch 64, elsewhere 32.",
        "DTL+: image size 96, elsewhere 48.",
        "DTL+: optimiser sgd, elsewhere adamw.",
    ]


def test_the_images_of_every_split_are_compared() -> None:
    splits = {"trainval": {"sha256": "old"}, "test": {"sha256": "data of land"}}
    runs = [changed(r, "provenance", splits=copy.deepcopy(splits)) for r in records()]
    runs = [run for run in runs if run["task_title"] == "Land"]
    assert not table(runs).footnotes
    runs[0]["provenance"]["splits"]["trainval"]["sha256"] = "new"
    [note] = table(runs).footnotes
    assert note.text.startswith("Land: rows were trained on different images (trainval): sha256")


def test_records_without_weights_have_no_note_on_them() -> None:
    runs = [changed(run, "provenance", checkpoint=None) for run in records()]
    assert "weights" not in " ".join(table(runs).notes)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("Käfer", "Käfer"),
        ("Ka\u0308fer", "Käfer"),  # as macOS names files
        ("дом_1", r"\otherscript{дом}{dom}\_1"),
        ("北京 动物 & x", r"\otherscript{北京 动物}{BeiJing DongWu} \& x"),
        ("≤ 5 – ↓", r"\otherscript{≤}{\textless{}=} 5 -- \ensuremath{\downarrow}"),
        ("\ue000x", "x"),  # of private use
    ],
)
def test_names_in_other_scripts_have_a_transliteration(name: str, source: str) -> None:
    assert latex.escaped(name) == source


def test_only_latex_with_other_scripts_says_how_to_print_them() -> None:
    plain = latex.render(report([record("lora", "land", 80.0)]), "x")
    other = latex.render(report([record("lora", "land", None, reason="ошибка")]), "x")
    macro = "\n".join(latex.OTHER_SCRIPT)
    assert macro not in plain
    assert macro in other


@pytest.mark.skipif(shutil.which("xelatex") is None, reason="XeLaTeX is not installed")
def test_xelatex_prints_names_in_any_script(tmp_path: Path) -> None:
    """Transliterated where the font lacks a character, without a gap; twice in one document."""
    names = ("漢字", "кошка", "قطة", "แมว", "בית", "🐈 cat", "a_b%&#${}\\^~")
    runs = [
        record("lora", f"own/{n}", 70.0 + n, task_title=f"{name} {n}", title="線形")
        for n, name in enumerate(names)
    ]
    source = latex.render(replace(build(runs, find("table")), charts=[]), "x")
    (tmp_path / "x.tex").write_text(source)
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs,graphicx}"
        r"\begin{document}\input{x.tex}\input{x.tex}\end{document}"
    )
    xelatex = ["xelatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    subprocess.run(xelatex, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")


def test_latex_prints_hyphens_backticks_and_letters_that_its_default_encoding_lacks() -> None:
    assert latex.escaped("--records `x`") == r"-{}-records \`{}x\`{}"
    assert latex.escaped("Þór «a»").count(r"\otherscript") == 3


def test_heads_of_groups_keep_their_capitals() -> None:
    assert [headed(group) for group in ("natural", "FGVC-Aircraft", "GPU memory", "")] == [
        *("Natural", "FGVC-Aircraft", "GPU memory", ""),
    ]


def test_latex_has_no_control_characters() -> None:
    assert latex.escaped("a\x1bb\nc\x00") == "ab c"


def test_names_of_any_bytes_are_shown_and_turn_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line breaks, escape sequences, characters that turn the writing, and no UTF-8 at all."""
    odd = "a\x1b[2J|\nb\u202ec\udcff"
    runs = [record(m, t, 70.0 + len(m)) for m in ("lora", "linear") for t in ("digits", "land")]
    for run in runs:
        run["title"] = {"lora": odd, "linear": "שלום 猫 \u200d"}[run["factors"]["method"]]
        run["task_title"] = f"{run['task_title']} {odd}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a character that the font of a chart lacks
        result = build(runs, find("leaderboard"))
        paths = files.write(result, "x", tmp_path, "command")
    terminal.show(result)
    plain = r"a\x1b[2J| b\u202ec\udcff"
    assert plain in capsys.readouterr().out
    texts = {path.suffix: path.read_text() for path in paths if path.suffix in (".html", ".md")}
    assert plain.replace("| b", "|\nb") in texts[".html"]
    assert markdown.escaped(plain) in texts[".md"]
    for text in texts.values():
        assert not {"\x1b", "\u202e"} & set(text)
    assert ["שלום 猫 \u200d" in text for text in texts.values()] == [True, True]
    assert r"\udcff" in (tmp_path / "x.csv").read_text()
    assert text_of_figures.drawable("שלום é") == "slvm é"
    assert text_of_figures.drawable("photographs 12", longest=9) == "phot…s 12"


def test_a_rounded_zero_has_no_sign() -> None:
    column = Column("gap", "gap", "group")
    values = pd.DataFrame({"gap": [-0.04, -0.06]}, index=["a", "b"])
    result = Table(["a", "b"], [column], values, pd.DataFrame(index=["a", "b"]), "caption")
    assert [result.text(row, column) for row in "ab"] == ["0.0", "−0.1"]


def test_a_cost_that_differs_between_the_runs_of_a_row_is_said() -> None:
    finished = pd.DataFrame(
        {
            "row": ["LoRA", "LoRA", "DTL", "DTL", "VeRA"],
            "saved_mb": [57.24, 62.24, 26.67, 26.68, float("nan")],
            "delta_kb": [1.0, 2.0, 15.6, 16.4, 3.0],  # DTL's are printed alike
            "train_s": [1.0, 9.0, 1.0, 9.0, 1.0],
        }
    )
    _, told = costs.meaning(["saved_mb", "train_s"], finished)
    assert told.startswith("Means of runs that differ in saved for backward (MB), by version")
    assert told.endswith(": LoRA (57.2 to 62.2).")
    _, told = costs.meaning(["delta_kb"], finished)
    assert told.endswith(": LoRA (1 to 2).")


def test_the_two_measures_of_memory_have_two_names() -> None:
    finished = pd.DataFrame({"row": ["LoRA"], "peak_mib": [2.0], "saved_mb": [1.0]})
    text = " ".join(costs.meaning(["peak_mib", "saved_mb"], finished))
    assert "Peak memory: " in text
    assert "Saved for backward: " in text
