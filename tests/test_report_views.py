"""Every named report, from records as its sweep writes them; the layout of the package."""

import ast
from dataclasses import replace
from html import escape
from pathlib import Path

import pandas as pd
import pytest

from petlbench.config import options, recipes
from petlbench.errors import UserError
from petlbench.report import kinds, registry
from petlbench.report.__main__ import main
from petlbench.report.draw import plot
from petlbench.report.model.chart import Chart, Ranks
from petlbench.report.model.report import Report
from petlbench.report.model.table import Table
from petlbench.report.read.means import GROUP_MEAN
from petlbench.report.read.rows import members
from petlbench.report.registry import find, names
from petlbench.report.render import html
from petlbench.report.table import published
from petlbench.run.record import Record
from tests.helpers import sampled
from tests.records import keep, probe, record
from tests.sweeps import SETS, SWEEPS, TESTS, few_shot, report, vtab


def build(kind: str, records: list[Record]) -> Report:
    return registry.build(records, find(kind))


DRAWN: dict[str, dict[str, bytes]] = {}


@pytest.fixture
def _draw_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal charts of several reports are drawn once: drawing takes most of the time."""
    draw = plot.render

    def render(chart: Chart | Ranks) -> dict[str, bytes]:
        key = repr(chart)
        if key not in DRAWN:
            DRAWN[key] = draw(chart)
        return DRAWN[key]

    monkeypatch.setattr(plot, "render", render)


# One of each kind that is quickly drawn; tables of all are built by the tests below.
FAST = (
    *("claims", "demo", "table", "efficiency", "scatter", "shots", "values", "leaderboard"),
    *("costs", "throughput", "audit", "folder", "trials"),
)


def test_each_kind_of_report_is_written() -> None:
    assert {find(name).kind for name in FAST} == {find(name).kind for name in names()}


@pytest.mark.usefixtures("_draw_once")
@pytest.mark.parametrize("name", sampled(list(names()), FAST))
def test_every_named_report_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = keep(SWEEPS[name](), tmp_path / "runs")
    more = ["--vary", "method.inject_from"] if name == "values" else []
    assert main([name, "--records", str(folder), "--out", str(tmp_path), *more]) == 0
    output = capsys.readouterr().out
    written = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {f"{name}{end}" for end in (".csv", "_tidy.csv", ".tex", ".md", ".html")} <= written
    for file in written:
        assert str(tmp_path / file) in output
    shown = pd.read_csv(tmp_path / f"{name}.csv")
    page = (tmp_path / f"{name}.html").read_text()
    for row in shown.iloc[:, 0]:
        assert f'data-label="{escape(row)}"' in page


PACKAGE = Path(registry.__file__).parent
BELOW = {  # folder -> the folders that its modules may import
    "model": set(),
    "read": {"model"},
    "table": {"model", "read"},
    "draw": {"model", "read", "table"},
    "render": {"model", "draw"},
    "kinds": {
        "model",
        "read",
        "table",
        "draw",
        "registry",
    },  # claims are measured by other reports
}


def imported(file: Path) -> set[str]:
    """The folders and modules of petlbench.report that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [n.module for n in nodes if isinstance(n, ast.ImportFrom) if n.module]
    names += [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    names += [
        f"{n.module}.{alias.name}"
        for n in nodes
        if isinstance(n, ast.ImportFrom) and n.module == "petlbench.report"
        for alias in n.names
    ]
    places = [name.split(".") for name in names if name.startswith("petlbench.report.")]
    return {place[2] for place in places}


@pytest.mark.parametrize("folder", BELOW)
def test_imports_between_folders_go_one_way(folder: str) -> None:
    files = [*(PACKAGE / folder).glob("*.py")]
    assert len(files) > 1
    for file in files:
        assert imported(file) <= BELOW[folder] | {folder}, file


def test_every_folder_of_the_package_has_its_place() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(BELOW)


def test_a_new_kind_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        (PACKAGE / "kinds" / "costs.py").read_text().replace('"title": "Costs"', '"title": "New"')
    )
    (tmp_path / "brand_new.py").write_text(source)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path)])
    assert names()["brand_new"] == "New"
    assert build("brand_new", [probe("lora", 10.0)]).tables[0].rows == ["LoRA"]


def experiments() -> list[str]:
    return [name for name in names() if options.content("experiment", name)]


@pytest.mark.parametrize("name", experiments())
def test_an_experiment_states_command_expectation_duration_and_device(name: str) -> None:
    head = [line for line in options.text("experiment", name).splitlines() if line[:1] == "#"]
    text = " ".join(head).lower()
    if name not in ("demo", "mini"):
        assert f"petlbench.report {name} " in text
    assert f"experiment={name}" in text or f"petlbench.{name} " in text
    if name not in ("demo", "mini"):
        assert "expected" in text
        assert "gpu" in text or "any device" in text or "cores" in text


def test_table_2_has_published_rows_that_no_rank_counts() -> None:
    table = report("table2").tables[0]
    paper = "SSF (DTL paper, Table 2)"
    cifar = next(column for column in table.columns if column.title == "Cifar100")
    assert table.text(paper, cifar) == "69.0"
    assert table.rank(paper, cifar) is None
    assert table.rank("LoRA", cifar) is not None
    assert table.sections[paper] == "published: DTL paper, Table 2"
    assert "last epoch" in next(n.text for n in table.footnotes if paper in n.of)
    assert table.values.loc[paper, "memory_gb"] == 4.9
    assert table.values.loc["LoRA (DTL paper, Table 2)", GROUP_MEAN] == 74.5  # as printed


def column(table: Table, title: str) -> pd.Series:
    [key] = [each.key for each in table.columns if each.title == title]
    values: pd.Series = table.values[key]
    return values


def test_table_2_states_what_the_paper_says_of_its_rows() -> None:
    """Text of the DTL paper: 65 % of memory saved, 11 of 19 tasks, 1.3 points without dSpr-Loc."""
    table = report("table2").tables[0]
    own, paper = "{}".format, "{} (DTL paper, Table 2)".format
    saved = column(table, "memory saved against Full (%)")
    assert saved[paper("DTL")] == pytest.approx(100 * (1 - 1.6 / 4.7))
    assert saved[own("Linear")] == pytest.approx(100 * (1 - 1037 / 900))
    assert pd.isna(saved[own("Full")])
    assert pd.isna(saved[paper("Full")])
    won = column(table, "tasks won of 19")
    assert won[paper("DTL+")] == 11
    # scores by a formula: one of the eight baselines is the best on every task
    assert won[[own("LoRA"), own("DTL+"), own("LST")]].tolist() == [19, 0, 0]
    rest = column(table, "group mean without dSpr-Loc")
    assert rest[paper("DTL+")] - rest[paper("SSF")] == pytest.approx(1.29, abs=0.005)
    assert rest[own("LoRA")] < table.values.loc["LoRA", GROUP_MEAN]
    assert any(note.startswith("Tasks won: ") and "VPT-Deep" in note for note in table.notes)


def test_methods_of_a_node_must_be_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_node", lambda _: {"kind": "table", "methods": "lora"})
    with pytest.raises(UserError, match="methods is lora; it must be a list of names"):
        registry.find("mine")


def test_equal_scores_both_win_a_task_and_a_row_without_all_tasks_is_not_compared() -> None:
    runs = [*vtab("lora", 60.0), *vtab("ssf", 60.0), *vtab("dtl", 61.0), *vtab("noah", 70.0)[1:]]
    won = column(registry.build(runs, find("table2")).tables[0], "tasks won of 19")
    assert won[["LoRA", "SSF", "DTL"]].tolist() == [19, 19, 19]
    assert pd.isna(won["NOAH"])


def test_table_3_states_the_memory_that_is_saved_on_swin() -> None:
    """75 %, in the text of the DTL paper."""
    table = report("table3").tables[0]
    saved = column(table, "memory saved against Full (%)")
    assert saved["DTL (DTL paper, Table 3)"] == pytest.approx(75, abs=0.5)
    assert saved[["DTL", "Linear"]].isna().all()  # no measured row of Full


def test_one_training_per_target_has_the_published_rows_of_table_4() -> None:
    table = report("dg_per_target").tables[0]
    assert column(table, "ImageNet-A")["DTL+ (DTL paper, Table 4)"] == 14.2
    assert column(table, "ImageNet-A")["DTL+"] == 56


def test_multitask_inference_is_compared_with_lora_models_in_turn() -> None:
    """45 % of latency, in the text of the DTL paper; measured rows by their own seconds."""
    runs = SWEEPS["multitask"]()
    [lora] = [run for run in runs if run["title"] == "LoRA"]
    lora["cost"]["multitask"]["seconds"] = {"shared": 0.4, "batch": 0.4, "sequential": 0.5}
    table = registry.build(runs, find("multitask")).tables[0]
    saved = column(table, "time saved against LoRA models in turn (%)")
    assert saved["DTL"] == pytest.approx(100 * (1 - 0.01 / 0.5))
    assert saved["LoRA"] == pytest.approx(100 * (1 - 0.4 / 0.5))
    assert saved["DTL (DTL paper, text)"] == 45
    note = next(n.text for n in table.footnotes if "DTL (DTL paper, text)" in n.of)
    assert "19 LoRA models" in note


def test_times_of_another_device_are_not_compared() -> None:
    runs = SWEEPS["multitask"]()
    lora = next(record for record in runs if record["factors"]["method"] == "lora")
    lora["provenance"]["device"] = "another device"
    table = registry.build(runs, find("multitask")).tables[0]
    saved = column(table, "time saved against LoRA models in turn (%)")
    assert saved[["DTL", "DTL+"]].isna().all()
    assert saved.notna()["LoRA"]
    assert any("same device" in note for note in table.notes)


def test_unknown_tasks_of_a_further_mean_are_refused() -> None:
    spec = replace(find("table2"), options={"without": ["vtab/dsprites_loc", "vtab/cifer"]})
    with pytest.raises(UserError, match="unknown task of the table 'vtab/cifer'"):
        registry.build(vtab("lora", 60.0), spec)


def test_a_table_of_another_suite_has_no_mean_without_a_task_of_its_own(tmp_path: Path) -> None:
    folder = keep(SWEEPS["mini"](), tmp_path / "runs")
    other = ["--suite", "mini", "--backbone", "vit_mini"]
    assert main(["table2", "--records", str(folder), "--out", str(tmp_path), *other]) == 0
    head = (tmp_path / "table2.csv").read_text().splitlines()[0]
    assert "mean_without" not in head
    assert "wins" in head


PAPER = [name for name in options.names("experiment") if name.endswith("_paper")]


def sweep(name: str) -> dict[str, str]:
    """Its parameters, with those of the experiment that it changes."""
    content = options.content("experiment", name)
    first = content["defaults"][0]
    above = first if isinstance(first, dict) else sweep(first)
    return {**above, **content.get("hydra", {}).get("sweeper", {}).get("params", {})}


def test_every_table_and_figure_that_can_has_an_experiment_with_published_values() -> None:
    """Tables 1 and 6 are probes, which train nothing."""
    reports = [name for name in experiments() if name.startswith(("table", "fig"))]
    assert {f"{name}_paper" for name in reports} - set(PAPER) == {"table1_paper", "table6_paper"}


@pytest.mark.parametrize("name", PAPER)
def test_every_run_of_a_paper_experiment_has_published_values(name: str) -> None:
    params = sweep(name)
    assert params["recipe"] == "paper"
    covered = set(recipes.covered())
    for method in params["method"].split(","):
        assert (method, params["override /backbone"], params["dataset"]) in covered


def test_table_3_has_a_column_a_group() -> None:
    table = report("table3").tables[0]
    assert [column.title for column in table.columns[:4]] == [
        "Natural",
        "Specialized",
        "Structured",
        GROUP_MEAN,
    ]
    assert table.values.loc["DTL+* (DTL paper, Table 3)", "natural mean"] == 83.2


def test_table_4_has_a_column_a_test_set_and_the_mean_of_the_targets() -> None:
    table = report("table4").tables[0]
    assert [column.key for column in table.columns[:6]] == [*TESTS, "target mean"]
    assert table.values.loc["LoRA", "sketch"] == pytest.approx(60.5)
    assert table.values.loc["LoRA", "target mean"] == pytest.approx((65 + 60 + 55 + 50) / 4 + 0.5)
    assert table.values.loc["DTL (DTL paper, Table 4)", "imagenet"] == 78.3


def test_table_5_has_a_row_a_setting() -> None:
    rows = report("table5").tables[0].rows[:4]
    assert rows == [
        "DTL (rank 2, beta none)",
        "DTL (rank 2, beta 100)",
        "DTL+ (rank 1, beta 100)",
        "DTL+ (rank 2, beta 100)",
    ]


def test_table_6_has_a_row_a_variant_and_a_column_a_batch_size() -> None:
    table = report("table6").tables[0]
    assert table.rows[:4] == ["VPT-Deep", "LoRA", "LoRA, merged", "NOAH"]
    assert [column.key for column in table.columns] == ["1", "4", "16"]
    assert table.values.loc["LoRA, merged", "16"] == 86 * 16 * 2
    assert table.values.loc["Full (DTL paper, Table 6)", "4"] == 636


def test_table_1_has_the_published_units() -> None:
    table = report("table1").tables[0]
    assert table.values.loc["LoRA", "units"] == 12
    assert table.values.loc["SSF (DTL paper, Table 1)", "units"] == 148


def test_figure_3_has_a_panel_a_set_and_their_mean() -> None:
    [chart] = report("fig3").charts
    assert [panel.title for panel in chart.panels] == [*SETS, "Mean"]  # type: ignore[union-attr]
    points = chart.panels[-1].series[0].points  # type: ignore[union-attr]
    assert [point.x for point in points] == [1, 2, 4, 8, 16]
    assert points[4].y == pytest.approx(30 + 1 + 4 + 40 + 1)  # VPT-Deep
    assert points[4].spread == pytest.approx(2**0.5 / 5**0.5)


def test_a_mean_over_sets_needs_all_of_them() -> None:
    runs = [r for r in few_shot() if r["factors"]["task"] != "fewshot/cars_4"]
    result = build("fig3", runs)
    means = result.charts[0].panels[-1]  # type: ignore[union-attr]
    assert [point.x for point in means.series[0].points] == [1, 2, 8, 16]


def test_figure_4_has_accuracy_and_memory_against_the_value() -> None:
    result = report("fig4")
    accuracy, memory = result.charts[0].panels  # type: ignore[union-attr]
    assert [point.x for point in accuracy.series[0].points] == [*range(1, 13)]
    assert [series.label for series in memory.series] == ["DTL+"]
    labels = [row for row in result.tables[0].rows if "DTL+ (Table 2), M 7" in row]
    assert result.tables[0].values.loc[labels[0], GROUP_MEAN] == 77.7


def test_lines_join_rows_that_differ_in_the_value_of_the_axis_only() -> None:
    """With a further varied key, each of its values has a line of its own."""
    points = [(rank, m) for rank in (2, 4) for m in (3, 1, 2)]
    runs = [r for rank, m in points for r in vtab("dtl_plus", 60.0 + m, rank=rank, inject_from=m)]
    spec = replace(find("fig4"), vary={"method.inject_from": "M", "method.rank": "rank"})
    [chart] = registry.build(runs, replace(spec, published=())).charts
    assert isinstance(chart, Chart)
    lines = {s.label: [point.x for point in s.points] for s in chart.panels[0].series}
    assert lines == {"DTL+ (rank 2)": [1, 2, 3], "DTL+ (rank 4)": [1, 2, 3]}


@pytest.mark.parametrize("odd", [True, "a", [1]])
def test_an_axis_needs_numbers(odd: object) -> None:
    runs = [r for value in (1, odd) for r in vtab("dtl_plus", 60.0, inject_from=value)]
    for run in runs:
        run["id"] += str(run["config"]["method"])
    with pytest.raises(UserError, match="the axis of this report needs numbers"):
        registry.build(runs, replace(find("fig4"), published=()))


def test_the_audit_finds_the_average_that_its_cells_contradict() -> None:
    table = build("audit", []).tables[0]
    wrong = table.values[table.values["verdict"] == "differs"]
    assert list(wrong.index) == ["LoRA (DTL paper, Table 2)"]
    assert wrong["printed"].item() == 74.5
    assert wrong["recomputed"].item() == pytest.approx(74.60, abs=0.005)
    assert len(table.rows) == 28
    assert list(table.values["of"]).count("tasks") == 6  # ARC and RLRR


def test_the_audit_sets_measured_rows_beside_published_ones() -> None:
    result = report("audit")
    beside = result.tables[0]
    paper, apart = "LoRA: DTL paper, Table 2", "LoRA: measured − DTL paper, Table 2"
    assert beside.rows[beside.rows.index(paper) + 1] == apart
    assert beside.values.loc[apart, "vtab/cifar"] == pytest.approx(60.0 - 67.1)
    assert beside.flags[apart, "vtab/cifar"] == "*"
    assert (apart, "vtab/caltech101") in beside.flags
    line = result.tidy[(result.tidy["row"] == "LoRA") & (result.tidy["cell"] == "vtab/cifar")]
    sources = {"DTL paper, Table 2", "OSU-MLB stored runs", "V-PETL Bench README"}
    assert set(line["source"]) == sources
    assert line[["selection", "provenance"]].notna().all(axis=None)
    assert not [row for row in beside.rows if "Table 3" in row]  # another backbone


def test_published_names_mean_methods_and_tasks_of_this_project() -> None:
    known = set(options.names("method"))
    titles = {options.content("dataset", task)["title"] for task in members("dataset", "vtab")}
    for file in ("dtl_aaai2024/table2_vtab_vit_b16", "vtab_vit_b16_literature"):
        for row in published.rows(file):
            assert row.method in known | {""}
            assert titles <= set(row.cells)
            assert row.source
            assert row.selection
            assert row.backbone in options.names("backbone")
    # its papers' tables were read as means alone
    for row in published.rows("vtab_swin_b_literature"):
        assert (row.method in known, "task mean" in row.cells) == (True, True)
    with pytest.raises(UserError, match="unknown file of published numbers 'table9'"):
        published.rows("table9")


def test_published_parameters_with_the_head_are_in_no_column_without_it() -> None:
    rows = published.rows("vtab_vit_b16_literature")
    counted = {row.source for row in rows if published.PARAMETERS in row.cells}
    assert counted == {"OSU-MLB stored runs"}
    for row in rows:
        assert "parameters" in row.note()
        assert "mean" in row.note()


def test_the_audit_recomputes_a_mean_over_tasks_from_those_of_groups() -> None:
    [table] = build("audit", []).tables
    rows = [row for row in table.rows if row.startswith("ARC (ARC paper")]
    assert rows == ["ARC (ARC paper, arXiv 2310.06234)"]
    line = table.values.loc[rows[0]]
    assert line["recomputed"] == pytest.approx((7 * 79.0 + 4 * 86.6 + 8 * 59.9) / 19)
    assert (line["of"], line["verdict"]) == ("tasks", "agrees")


def test_published_rows_of_other_weights_are_marked_and_never_audited_against_ours() -> None:
    """The authors' scripts of SSF, GPS and HST load the AugReg weights, and so do starred rows."""
    files = ("dtl_aaai2024/table2_vtab_vit_b16", "vtab_vit_b16_literature")
    rows = [row for file in files for row in published.rows(file)]
    apart = {(row.source, row.label) for row in rows if row.backbone != "vit_b16"}
    assert apart == {
        ("DTL paper, Table 2", "SSF"),
        *(("V-PETL Bench README", name) for name in ("SSF", "GPS", "HST")),
        *(("RLRR paper, Table 2", name) for name in ("ARC*", "RLRR*")),
    }
    for row in rows:
        marked = "trained from the weights of vit_b16_augreg, not of vit_b16" in row.note()
        assert marked == ((row.source, row.label) in apart)
    table = report("table2").tables[0]
    footnotes = [note for note in table.footnotes if "vit_b16_augreg" in note.text]
    assert [note.of for note in footnotes] == [("SSF (DTL paper, Table 2)",)]
    beside = build("audit", vtab("ssf", 60.0)).tables[0]
    assert "SSF: OSU-MLB stored runs" in beside.rows
    assert "SSF: DTL paper, Table 2" not in beside.rows


def test_a_leaderboard_is_in_the_order_of_average_ranks() -> None:
    result = report("leaderboard")
    table = result.tables[0]
    ranks = table.values.loc[table.rows, "average_rank"]
    assert list(ranks) == sorted(ranks)
    assert ranks.mean() == pytest.approx((len(ranks) + 1) / 2)
    assert table.values.loc["Linear", "gap"] == pytest.approx(
        table.values.loc["Linear", "task mean"] - table.values["task mean"].max()
    )
    assert [chart.name for chart in result.charts] == ["tradeoff", "ranks"]


def test_a_row_that_loses_on_every_task_is_marked() -> None:
    few = [r for r in SWEEPS["mini"]() if r["title"] in ("Linear", "LoRA", "BitFit")]
    table = build("leaderboard", few).tables[0]
    assert table.flags == {("Linear", "task mean"): "†"}
    assert any(
        note.startswith("†: task mean significantly below that of LoRA") for note in table.notes
    )


def test_figure_1_has_panels_of_what_was_published() -> None:
    chart = tradeoff("fig1")
    assert [panel.title for panel in chart.panels] == [
        *("Parameters", "Memory", "Parameters, as published", "Memory, as published")
    ]
    measured, _, _, printed = [{s.label: s.points[0] for s in p.series} for p in chart.panels]
    assert len(measured) == len(printed) == 13
    dtl = printed["DTL"]
    assert (dtl.x, dtl.y) == (1.6, 76.7)  # GB and group mean of Table 2
    assert "DTL paper, Table 2" in dtl.provenance
    assert measured["DTL"] != dtl
    assert "As published" in chart.caption
    assert all("published" not in panel.title for panel in tradeoff("leaderboard").panels)


def tradeoff(name: str) -> Chart:
    """The first chart of a report."""
    chart = report(name).charts[0]
    assert isinstance(chart, Chart)
    return chart


def test_a_leaderboard_ranks_complete_rows_only() -> None:
    lacking = ("Full", "Land")
    runs = [r for r in SWEEPS["mini"]() if (r["title"], r["task_title"]) != lacking]
    table = build("leaderboard", runs).tables[0]
    assert table.rows[-1] == "Full"
    assert pd.isna(table.values.loc["Full", "average_rank"])
    assert any("hence without a rank: Full" in note for note in table.notes)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_bootstrap_over_few_tasks_has_no_interval(count: int) -> None:
    runs = SWEEPS["mini"]()
    names = sorted({r["task_title"] for r in runs})[:count]
    table = build("leaderboard", [r for r in runs if r["task_title"] in names]).tables[0]
    shown = table.values.shape[0] - 1
    assert table.values["gap"].notna().sum() == shown
    # over two or three tasks it would be from the least of their differences to the largest
    assert table.values["interval"].notna().sum() == (shown if count == 4 else 0)
    refused = any("a bootstrap over tasks needs at least 4" in note for note in table.notes)
    assert refused == (count < 4)


MINI = ["--records", "mini", "--suite", "mini"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel2"], "unknown report 'tabel2'; did you mean 'table"),
        (["leaderboard"], "this report needs records; add --records DIR"),
        (
            ["table2", "--records", "mini"],
            "is of runs with dataset=vtab, and --records has dataset=m",
        ),
        (["table6", "--records", "mini"], "this report is of runs with dataset=probe, and --rec"),
        (["fig3", *MINI], "backbone among the records 'vit_b16'"),
        (["shots", *MINI], "has no number of shots"),
        (["values", "--records", "mini"], "add --vary KEY"),
        (
            ["table4", *["--records", "mini", "--suite", "mini", "--backbone", "vit_mini"]],
            "needs records of one task, not of Digits, Land",
        ),
        (
            ["multitask", *["--records", "mini", "--suite", "mini", "--protocol", "final"]],
            "has tasks",
        ),
        (["audit", "--records", "alien"], "no published row on vit_b16 for noah_subnet"),
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
    keep([record("lora", "land", 80.0), record("lora", "digits", 80.0)], tmp_path / "mini")
    keep(vtab("noah_subnet", 50.0), tmp_path / "alien")
    assert main([*arguments, "--out", "out"]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1


def test_an_option_that_the_kind_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = {"report": {"kind": "table", "title": "x", "colums": "groups"}}
    monkeypatch.setattr(options, "content", lambda group, name: node)
    with pytest.raises(
        UserError, match=r"option of report 'demo' \(table\) 'colums'; did you mean"
    ):
        find("demo")
    node["report"]["kind"] = "pie"
    with pytest.raises(UserError, match="kind of report 'demo' 'pie'"):
        find("demo")


def test_too_few_tasks_are_not_tested() -> None:
    for name, reason in (
        ("demo", "(3 tasks, {} complete rows: "),
        ("mini", "(8 tasks, {} complete rows: after Holm's correction its p cannot be below "),
    ):
        table = report(name).tables[0]
        text = f"No signed-rank test of the means over tasks {reason.format(len(table.rows))}"
        assert any(text in note for note in table.notes)
        assert not table.flags


def test_a_method_on_some_tasks_has_no_mean_beside_the_published_one() -> None:
    few = [r for r in vtab("lora", 60.0) if r["factors"]["task"] in members("dataset", "vtab")[:4]]
    for name in ("audit", "table2"):
        table = build(name, few).tables[0]
        assert [c.key for c in table.columns[:19]] == members("dataset", "vtab")
        means = table.values[GROUP_MEAN]
        assert pd.isna(means["LoRA"])
        assert means[[row for row in table.rows if "measured −" in row]].isna().all()
        assert (means == 74.5).any()  # as printed


def test_the_parts_of_the_peak_are_columns() -> None:
    table = report("efficiency").tables[0]
    shown = {column.key: table.values.loc["LoRA", column.key] for column in table.columns}
    assert shown["activations_mib"] == 700
    assert shown["workspace_mib"] == 50
    assert shown["reserved_mib"] == 1200
    assert {"weights_mib", "gradients_mib", "optimiser_mib"} <= set(shown)


def test_the_tidy_file_has_a_row_a_timing() -> None:
    tidy = build("throughput", [probe("lora", 10.0, id="x")]).tidy
    line = tidy[(tidy["batch"] == 4) & (tidy["merged"] == True)].iloc[0]  # noqa: E712
    assert line["images_per_s"] == 80
    text = ["id", "device", "precision", "compiled", "spread", "repeats"]
    assert list(line[text]) == ["x", "a CPU, 2 threads", "fp16", False, 3.0, 5]


def test_costs_that_a_run_failed_to_give_are_marked() -> None:
    lost = probe("dtl", 1.0, status="unsupported", reason="no", cost={}, provenance={})
    for kind in ("costs", "throughput"):
        table = build(kind, [probe("lora", 10.0), lost]).tables[0]
        assert {table.text("dtl", column) for column in table.columns} == {"n/a"}


def test_a_batch_without_a_speed_has_a_mark_and_a_reason() -> None:
    runs = probe("lora", 10.0)
    runs["cost"]["inference"][4] = {
        "batch": 16,
        "images_per_s": None,
        "compiled": False,
        "merged": False,
        "reason": "OutOfMemoryError: 9 GiB",
    }
    table = build("throughput", [runs]).tables[0]
    assert [table.text("LoRA", column) for column in table.columns] == ["10", "40", "oom"]
    assert "oom: LoRA at batch size 16: OutOfMemoryError: 9 GiB" in table.notes


def test_the_time_that_sharing_saves_is_a_percentage() -> None:
    values = report("multitask").tables[0].values.loc["LoRA"]
    assert values["batch_saved_percent"] == pytest.approx(50)
    assert values["sequential_saved_percent"] == pytest.approx(90)


def test_a_table_has_its_chart_of_accuracy_against_cost() -> None:
    assert [chart.name for chart in report("table2").charts] == ["tradeoff"]
    assert not build("table", [record("lora", "land", None)]).charts


def test_figure_4_has_the_published_points_unjoined_and_accuracy_alone() -> None:
    accuracy, memory = report("fig4").charts[0].panels  # type: ignore[union-attr]
    printed = accuracy.series[-1]
    assert printed.alone
    assert {(p.x, p.y) for p in printed.points} == {(1, 77.9), (7, 77.7), (11, 76.7), (12, 75.9)}
    assert not any(series.alone for series in memory.series)


def test_the_filter_finds_published_rows_by_their_plain_names() -> None:
    table = report("table2").tables[0]
    assert table.methods["SSF (DTL paper, Table 2)"] == "SSF"
    beside = report("audit").tables[0]
    assert beside.methods["LoRA: DTL paper, Table 2"] == "LoRA"
    assert 'data-method="SSF"' in html.render(report("table2"), "a command")
