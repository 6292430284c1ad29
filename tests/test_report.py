"""The report on numbers computed by hand: means, ranks, marks, notes, files, errors."""

import copy
import io
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from petlbench.errors import UserError
from petlbench.report import costs, latex, markdown, terminal
from petlbench.report.__main__ import main
from petlbench.report.document import Report
from petlbench.report.read import read
from petlbench.report.rows import listed
from petlbench.report.scores import GROUP_MEAN, TASK_MEAN
from petlbench.report.table import Column, Table
from petlbench.report.view import find, module
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
    return [made for made in records() if made["id"] != identifier]


def changed(made: Record, part: str, **changes: Any) -> Record:
    made = copy.deepcopy(made)
    made[part] |= changes
    return made


def report(found: list[Record], protocol: str = "final", suite: str | None = None) -> Report:
    view = replace(find("table"), protocol=protocol, suite=suite)
    made = module("table").build(found, view)
    assert isinstance(made, Report)
    return made


def table(found: list[Record], protocol: str = "final", suite: str | None = None) -> Table:
    return report(found, protocol, suite).tables[0]


def report_of(made: Table) -> Report:
    return Report("a title", [made], made.values)


def column(made: Table, key: str) -> Column:
    return next(column for column in made.columns if column.key == key)


def ranks(made: Table, key: str) -> list[int | None]:
    return [made.rank(row, column(made, key)) for row in made.rows]


def vtab() -> list[Record]:
    """Two methods on the 19 tasks of VTAB-1K."""
    found = []
    for place, task in enumerate(listed("dataset", "vtab")):
        group = ("natural", "specialized", "structured")[(place > 6) + (place > 10)]
        for method in ("linear", "lora"):
            made = record(
                method, "land", 50.0 + place, suite="vtab", group=group, id=method + task
            )
            made["factors"]["task"], made["task_title"] = task, task.split("/")[1][:10]
            found.append(made)
    return found


def test_rows_and_columns_are_in_the_order_of_the_suites() -> None:
    made = table([record("zeta", "land", 1.0), record("alpha", "land", 1.0), *records()[::-1]])
    assert made.rows == ["Linear", "LoRA", "DTL+", "alpha", "zeta"]
    keys = [column.key for column in made.columns]
    assert keys[:5] == ["mini/digits", "mini/glyphs", "mini/land", GROUP_MEAN, TASK_MEAN]


def test_a_suite_of_the_users_own_keeps_the_order_of_its_records_and_its_groups_together() -> None:
    found = [record("lora", task, 1.0, suite="own") for task in ("land", "glyphs", "digits")]
    found[0]["group"] = "natural"
    found[1]["group"] = "other"
    made = table(found, suite="own")
    assert [c.key for c in made.columns][:3] == ["mini/land", "mini/digits", "mini/glyphs"]


def test_both_means_are_what_their_names_say() -> None:
    values = table(records()).values.loc["LoRA"]
    assert values[GROUP_MEAN] == pytest.approx(((90 + 72) / 2 + 78) / 2)
    assert values[TASK_MEAN] == pytest.approx((90 + 72 + 78) / 3)


def test_seeds_are_averaged_and_their_spread_is_the_sample_deviation() -> None:
    made = table([record("lora", "land", top1, seed) for seed, top1 in enumerate((70, 72, 77))])
    assert made.values.loc["LoRA", "mini/land"] == pytest.approx(73)
    assert made.spread.loc["LoRA", "mini/land"] == pytest.approx(13**0.5)
    assert "mean over 3 seeds" in made.notes[0]
    assert r"\label{tab:x-spread}" in latex.render(report_of(made), "x")
    assert markdown.render(report_of(made)).rstrip().endswith("| LoRA | 3.6 | 3.6 | 3.6 |")


def test_one_seed_has_no_spread_and_says_so() -> None:
    made = table(records())
    assert "one seed" in made.notes[0]
    assert "-spread" not in latex.render(report_of(made), "x")
    assert "deviation" not in markdown.render(report_of(made))


def test_cells_of_unequal_runs_are_said() -> None:
    made = table([*records(), record("lora", "land", 80.0, seed=1)])
    assert made.values.loc["LoRA", "mini/land"] == 79
    assert "1 to 2 runs in a cell" in made.notes[0]


def test_ranks_are_those_of_the_printed_figures() -> None:
    made = table(records())
    assert ranks(made, "mini/digits") == [2, 1, 1]
    assert ranks(made, "mini/land") == [None, 2, 1]
    assert ranks(made, TASK_MEAN) == [2, 1, 1]
    assert ranks(made, GROUP_MEAN) == [None, 2, 1]
    assert ranks(made, "train_s") == [None] * 3


def test_what_prints_alike_ranks_alike() -> None:
    made = table([record("linear", "land", 70.25), record("lora", "land", 70.15)])
    shown = [made.text(row, column(made, "mini/land")) for row in made.rows]
    assert (shown[0] == shown[1]) == (ranks(made, "mini/land") == [1, 1])


def test_a_lone_row_has_no_best() -> None:
    assert ranks(table([record("lora", "land", 70.0)]), "mini/land") == [None]


def test_a_missing_cell_stays_missing_and_spoils_its_means() -> None:
    made = table(without("loraland0"))
    assert [made.text("LoRA", column(made, key)) for key in ("mini/land", TASK_MEAN)] == ["–"] * 2
    assert made.text("LoRA", column(made, GROUP_MEAN)) == "–"
    assert made.text("DTL+", column(made, TASK_MEAN)) == "80.0"
    assert any("Rows that miss a task have no means" in note for note in made.notes)
    assert any("no records of mini/cells" in note for note in made.notes)


@pytest.mark.parametrize(
    ("status", "mark"),
    [("failed", "fail"), ("diverged", "div."), ("out_of_memory", "oom"), ("unsupported", "n/a")],
)
def test_a_run_without_a_score_is_marked_with_its_reason(status: str, mark: str) -> None:
    lost = record("dtl_plus", "digits", None, status=status, cost={}, provenance={}, selection={})
    made = table([*records()[1:], lost])
    assert made.text("DTL+", column(made, "mini/digits")) == mark
    assert made.text("DTL+", column(made, TASK_MEAN)) == "–"
    assert f"{mark}: DTL+ on Digits (seed 0): RuntimeError: it broke" in made.notes


def test_reasons_are_gathered_over_tasks_and_seeds() -> None:
    lost = [record("lora", task, None, seed) for task in ("digits", "land") for seed in (0, 1)]
    reason = "fail: LoRA on Digits (seed 0 1), Land (seed 0 1): RuntimeError: it broke"
    assert reason in table(lost).notes


def test_a_table_of_failures_only_is_still_a_table() -> None:
    lost = [record(m, "land", None, cost={}, provenance={}, selection={}) for m in SCORES]
    made = table(lost)
    assert {made.text(row, column(made, "mini/land")) for row in made.rows} == {"fail"}
    assert "no finished run" in made.notes[0]
    assert "fail" in latex.render(report_of(made), "x")


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
def test_a_row_of_another_origin_has_a_footnote(change: dict[str, Any], note: str) -> None:
    made = table(
        [*without("loraland0"), changed(record("lora", "land", 78), "provenance", **change)]
    )
    assert [footnote.text for footnote in made.footnotes] == [note]
    assert made.letters("LoRA") == "a"
    assert made.letters("DTL+") == ""
    assert r"LoRA\textsuperscript{a} &" in latex.render(report_of(made), "x")
    assert "| LoRA<sup>a</sup> |" in markdown.render(report_of(made))
    assert table(records()).footnotes == []


def test_other_epochs_have_a_footnote() -> None:
    found = records()
    for made in found[:3]:
        made["config"]["train"]["epochs"] = 5
    assert [f.text for f in table(found).footnotes] == ["DTL+: epochs 5, elsewhere 10."]


def test_backbones_are_never_mixed() -> None:
    found = records()
    for other in found[:3]:
        other["factors"]["backbone"] = "swin_b"
    with pytest.raises(UserError, match=r"2 backbones \(swin_b, vit_mini\).*--backbone swin_b"):
        table(found)
    view = replace(find("table"), backbone="vit_mini")
    made = module("table").build(found, view).tables[0]
    assert made.rows == ["Linear", "LoRA"]
    assert "Left out: 3 records of other backbones (swin_b)." in made.notes
    with pytest.raises(UserError, match=r"backbone among the records 'vit_b16'.*swin_b, vit_mini"):
        module("table").build(found, replace(view, backbone="vit_b16"))


def test_a_column_of_mixed_data_has_a_footnote() -> None:
    other = changed(record("lora", "land", 78), "provenance", splits={"test": {"sha256": "other"}})
    made = table([*without("loraland0"), other])
    assert made.letters("mini/land") == "a"
    assert "sha256 data of land (DTL+, Linear); sha256 other (LoRA)" in made.lines()[-1]


def test_rows_of_another_normalisation_or_pooling_have_a_footnote() -> None:
    usual = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "pool": "cls"}
    other = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "pool": "norm_then_mean"}
    made = table(
        [
            changed(found, "config", backbone=other if found["title"] == "LoRA" else usual)
            for found in records()
        ]
    )
    assert [note.text for note in made.footnotes] == [
        "LoRA: normalisation 0.485 0.456 0.406 / 0.229 0.224 0.225, "
        "elsewhere 0.5 0.5 0.5 / 0.5 0.5 0.5.",
        "LoRA: pooling norm_then_mean, elsewhere cls.",
    ]


def test_dishonest_selection_is_said() -> None:
    scores = {name: {"top1": top1, "total": 9} for name, top1 in (("test", 78), ("test@best", 99))}
    found = [*without("loraland0"), record("lora", "land", 78.0, scores=scores)]
    found[-1]["selection"] = {"honest": False}
    made = table(found)
    assert made.values.loc["LoRA", "mini/land"] == 78
    assert made.footnotes[0].text.startswith("dishonest")
    assert made.footnotes[0].of == ("LoRA",)


@pytest.mark.parametrize("seed", [0, 1])
def test_runs_of_different_settings_are_never_averaged(seed: int) -> None:
    other = changed(record("lora", "land", 79.0, seed, id="x"), "config", train={"lr": 0.1})
    cell = "method=lora backbone=vit_mini task=mini/land"
    with pytest.raises(UserError, match=rf"runs of {cell}.* train\.lr \(0\.01, 0\.1\)") as error:
        table([*records(), other])
    assert "\n" not in str(error.value)


def test_a_record_from_before_a_key_averages_with_later_ones(tmp_path: Path) -> None:
    """Keys that came later have neutral values: what their absence meant."""
    early, late = (record("lora", "land", 78.0 + seed, seed) for seed in (0, 1))
    for made in (early, late):
        made["config"]["backbone"] = {"name": "vit_mini"}
    late["config"]["backbone"] |= {"fused_attention": True, "head_start": "small_normal"}
    late["provenance"]["attention"] = "fused"
    found = read([keep([early, late], tmp_path / "a")])
    assert table(found).values.loc["LoRA", "mini/land"] == 78.5
    assert not table(found).footnotes  # what a record does not say is no difference
    late["config"]["backbone"]["fused_attention"] = False
    with pytest.raises(UserError, match=r"backbone\.fused_attention \(True, False\)"):
        table(read([keep([early, late], tmp_path / "b")]))


def test_settings_that_change_between_tasks_are_said() -> None:
    other = changed(record("lora", "land", 78.0), "config", method={"rank": 4})
    made = table([*without("loraland0"), other])
    assert "LoRA: method.rank differs between tasks." in made.notes


def test_methods_that_share_a_title_keep_their_rows() -> None:
    found = [record("lora", "land", 70.0), record("linear", "land", 60.0, title="LoRA")]
    assert table(found).rows == ["LoRA [linear]", "LoRA [lora]"]


def test_protocols_are_never_mixed() -> None:
    found = [*records(), record("lora", "land", 99.0, protocol="trial", id="t")]
    made = table(found)
    assert made.values.loc["LoRA", "mini/land"] == 78
    assert "Left out: 1 record of other protocols (trial)." in made.notes
    with pytest.raises(UserError, match=r"protocol among the records 'audit'.*final, trial"):
        table(found, protocol="audit")


def test_the_choice_of_an_epoch_on_the_test_set_is_a_column_of_its_own() -> None:
    gains = {"land": 1.5, "digits": 0.5}
    found = []
    for task, gain in gains.items():
        scores = {"test": {"top1": 70.0}, "test@best": {"top1": 70.0 + gain}}
        found.append(record("lora", task, 70.0, protocol="audit", scores=scores))
    found.append(record("linear", "land", 60.0, protocol="audit"))
    made = table(found, protocol="audit")
    assert made.values.loc["LoRA", "inflation"] == 1.0
    assert pd.isna(made.values.loc["Linear", "inflation"])
    assert made.values.loc["LoRA", TASK_MEAN] == 70.0
    assert any(note.startswith("Best epoch on test: what choosing") for note in made.notes)
    assert "inflation" not in table(records()).values


def test_memory_is_the_peak_only_where_all_runs_have_it() -> None:
    keys = [column.key for column in table(records()).columns]
    assert "saved_mb" in keys
    assert "peak_mib" not in keys
    found = [changed(made, "cost", peak_mib=PEAK) for made in records()]
    made = table(found)
    assert made.text("LoRA", column(made, "peak_mib")) == "512"
    mixed = table([*found[1:], records()[0]])
    assert "peak_mib" not in [column.key for column in mixed.columns]


def test_costs_are_means_over_runs() -> None:
    found = [changed(made, "cost", train_s=float(n)) for n, made in enumerate(records())]
    made = table(found)
    assert made.values.loc["LoRA", "train_s"] == pytest.approx((3 + 4 + 5) / 3)
    assert made.text("LoRA", column(made, "parameters_m")) == "0.037"


def rows_of(source: str) -> list[str]:
    body = source.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    return [line for line in body.strip().splitlines() if "&" in line]


def test_latex_is_well_formed_whatever_the_titles_and_reasons_hold() -> None:
    lost = record("dtl", "land", None, title=f"*{NASTY}", reason=f"{NASTY} → \u2603")
    found = [*records(), lost, record("lora", "land", 80.0, seed=1)]
    source = latex.render(report(found), "x", "a\ncommand")
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
    assert not re.search(r"[^\x00-\xff]", source)


def test_rows_stand_under_the_head_of_their_family() -> None:
    made = table(records())
    assert [section for section, _ in made.parts()] == ["traditional methods", "PETL methods"]
    assert [row for _, rows in made.parts() for row in rows] == made.rows
    source = latex.render(report_of(made), "x")
    assert source.index("Traditional methods") < source.index("PETL methods")
    assert "PETL" in shown(made, 100)
    alone = table([record("lora", "land", 80.0)])
    assert alone.parts() == [("", alone.rows)]


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


def shown(made: Table, width: int) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="standard"
    )
    for part in terminal.render(made, width):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 100, 120])
def test_the_terminal_shows_every_column_of_a_wide_suite(width: int) -> None:
    made = table(vtab(), suite="vtab")
    told = re.sub(r"\x1b\[[0-9;]*m", "", shown(made, width))
    assert max(map(len, told.splitlines())) <= width
    assert "…" not in told
    for task in made.columns[:19]:
        assert task.title in told


def test_the_terminal_marks_best_and_second() -> None:
    told = shown(table(records()), 100)
    assert "\x1b[1m80.0\x1b[0m" in told
    assert "\x1b[4m78.0\x1b[0m" in told


FILES = {"t.csv", "t_tidy.csv", "t.tex", "t.md", "t.html", "t_tradeoff.png", "t_tradeoff.pdf"}


def command(folder: Path, out: Path, *more: str) -> int:
    return main(["table", "--records", str(folder), "--name", "t", "--out", str(out), *more])


def test_the_command_writes_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert command(keep(records(), tmp_path / "runs"), out) == 0
    assert {path.name for path in out.iterdir()} == FILES
    wide = pd.read_csv(out / "t.csv", index_col="method")
    made = table(records())
    keys = [column.key for column in made.columns]
    pd.testing.assert_frame_equal(wide[keys], made.values[keys], check_names=False)
    tidy = pd.read_csv(out / "t_tidy.csv")
    assert dict(zip(tidy["id"], tidy["top1"], strict=True)) == {
        made["id"]: made["scores"]["test"]["top1"] for made in records()
    }
    told = capsys.readouterr().out
    assert "LoRA" in told
    assert "one seed" in told
    assert f"wrote {out / 't.tex'}" in told


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--records", "none"], "no folder 'none'"),
        (["--records", "empty"], "no records in empty; python -m petlbench -m"),
        (["--suite", "vtap"], "unknown suite among the records 'vtap'; Known: mini"),
        (["--protocol", "finale"], "did you mean 'final'? Known: final"),
        (["--name", "a/b"], "--name 'a/b' is no name for files"),
        (["--backbone", "vit"], "unknown backbone among the records 'vit'"),
        (["--records", "broken"], "record 'broken/0.json' is broken: cost, factors.seed missing"),
        (["--records", "cut"], "record 'cut/0.json' cannot be read"),
        (["--records", "later"], "record 'later/0.json' has schema 2, this petlbench reads 1"),
        (["--out", "runs/0.json/x"], "--out 'runs/0.json/x' cannot be written (Not a directory)"),
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
    given = ["table", "--records", "runs", "--name", "t", "--out", "out", *arguments]
    assert main(given) == 1
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert not Path("out").exists() or not list(Path("out").iterdir())


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
        ("status", "done"),
    ],
)
def test_a_record_that_is_broken_inside_is_named(
    place: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = copy.deepcopy(record("lora", "land", 1.0))
    *above, key = place.split(".")
    node = made
    for part in above:
        node = node[part]
    node[key] = value
    folder = keep([made], tmp_path / "runs")
    assert command(folder, tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert f"record '{folder}/0.json' is broken: {place}" in told
    assert told.count("\n") == 1


def test_seeds_of_different_data_are_never_averaged() -> None:
    found = [record("lora", "digits", 70.0 + seed, seed) for seed in (0, 1)]
    for made, share in zip(found, (0.1, 0.5), strict=True):
        made["config"]["dataset"] = {"val_share": share, "root": f"/a{share}", "draw": made["id"]}
    with pytest.raises(UserError, match=r"dataset\.val_share \(0\.1, 0\.5\)"):
        table(found)
    found[1]["config"]["dataset"]["val_share"] = 0.1
    assert table(found).values.loc["LoRA", "mini/digits"] == 70.5


def test_a_named_suite_shows_the_tasks_that_no_record_is_of() -> None:
    made = table(records(), suite="mini")
    assert [c.title for c in made.columns[:8]][1:4] == ["Glyphs", "Land", "Cells"]
    assert made.columns[3].group == "specialized"
    for key in ("mini/cells", GROUP_MEAN, TASK_MEAN):
        assert {made.text(row, column(made, key)) for row in made.rows} == {"–"}
    assert any(note.startswith("No records of mini/cells") for note in made.notes)


def test_means_of_fewer_tasks_stand_beside_no_published_ones() -> None:
    files = ("dtl_aaai2024/table2_vtab_vit_b16",)
    few = [made for made in vtab() if made["factors"]["task"] in listed("dataset", "vtab")[:4]]
    view = replace(find("table"), published=files)
    made = module("table").build(few, view).tables[0]
    assert not pd.isna(made.values.loc["LoRA", GROUP_MEAN])
    assert pd.isna(made.values.loc["LoRA (DTL paper, Table 2)", GROUP_MEAN])


def test_two_published_files_share_one_column_of_memory() -> None:
    files = ("dtl_aaai2024/table2_vtab_vit_b16", "dtl_aaai2024/table5_ablation_vit_b16")
    made = module("table").build(vtab(), replace(find("table"), published=files)).tables[0]
    assert [c.key for c in made.columns].count("memory_gb") == 1
    assert made.values.loc["SSF (DTL paper, Table 2)", "memory_gb"] == 4.9


def test_what_memory_and_speed_depend_on_is_said_and_what_deviates_is_marked() -> None:
    found = records()
    for made in found:
        made["config"]["train"] |= {"batch_size": 32, "optimizer": "adamw"}
        made["config"]["input"] = {"size": 48}
        made["provenance"]["attention"] = "fused"
    told = table(found).notes[1]
    assert "; training batch 32, 48 px, fused attention, adamw; " in told
    for made in found[:3]:
        made["config"]["train"] |= {"batch_size": 64, "optimizer": "sgd"}
        made["config"]["input"] = {"size": 96}
    assert [note.text for note in table(found).footnotes] == [
        "DTL+: training batch 64, elsewhere 32.",
        "DTL+: image size 96, elsewhere 48.",
        "DTL+: optimiser sgd, elsewhere adamw.",
    ]


def test_every_split_is_compared() -> None:
    splits = {"trainval": {"sha256": "old"}, "test": {"sha256": "data of land"}}
    found = [changed(r, "provenance", splits=copy.deepcopy(splits)) for r in records()]
    found = [made for made in found if made["task_title"] == "Land"]
    assert not table(found).footnotes
    found[0]["provenance"]["splits"]["trainval"]["sha256"] = "new"
    [note] = table(found).footnotes
    assert note.text.startswith("Land: rows were trained on different images (trainval): sha256")


def test_records_without_weights_say_nothing_of_them() -> None:
    found = [changed(made, "provenance", checkpoint=None) for made in records()]
    assert "weights" not in " ".join(table(found).notes)


def test_latex_has_no_control_characters() -> None:
    assert latex.escaped("a\x1bb\nc\x00") == "ab c"


def test_the_two_measures_of_memory_have_two_names() -> None:
    told = " ".join(costs.meaning(["peak_mib", "saved_mb"]))
    assert "Peak memory: " in told
    assert "Saved for backward: " in told
