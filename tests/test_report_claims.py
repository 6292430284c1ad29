"""The claims of the DTL paper: which records measure a figure, and which never do."""

import copy
import itertools
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from petlbench.config import options
from petlbench.errors import UserError
from petlbench.report import registry
from petlbench.report.model.report import Report
from petlbench.report.read import claims
from petlbench.report.read.claims import CONDITIONS, Claim, Measurement, Row
from petlbench.report.read.rows import members
from petlbench.report.registry import find
from petlbench.report.table import published
from petlbench.run.record import Record
from tests.records import probe, record
from tests.sweeps import measured, titled

FILE = "dtl_aaai2024/claims"
GPU = "NVIDIA GeForce RTX 3090"
CPU = "a CPU, 2 threads"
# where a record has the value of a condition
PLACES = {
    "suite": ("suite",),
    "protocol": ("protocol",),
    "backbone": ("factors", "backbone"),
    "device": ("provenance", "device"),
    "precision": ("provenance", "precision"),
    "attention": ("provenance", "attention"),
    "batch": ("config", "train", "batch_size"),
    "size": ("config", "input", "size"),
}


def put(run: Record, place: Iterable[str], value: Any) -> None:
    *above, key = place
    node: Any = run
    for part in above:
        node = node.setdefault(part, {})
    node[key] = value


def fulfil(run: Record, key: str, value: Any) -> None:
    """Give the record the value of a condition."""
    if key == "weights":
        put(run, ("provenance", "checkpoint"), {"tag": value, "sha256": "0c0e49b3" * 8})
    elif key == "on":
        put(run, PLACES["device"], {"GPU": GPU, "CPU": CPU}[value])
    else:
        put(run, PLACES.get(key, ("config", *key.split("."))), value)
    if key == "precision":
        put(run, ("config", "train", "precision"), value)
    if key == "attention":
        put(run, ("config", "backbone", "fused_attention"), value == "fused")


def runs(row: Row, measurement: Measurement, top1: float = 60.0) -> list[Record]:
    """A record of each task of the suite that the measurement accepts for the row."""
    accepts = measurement.accepts
    made = []
    for place, task in enumerate(members("dataset", accepts["suite"])):
        if accepts["suite"] == "probe":
            run = probe(row.method, 100.0)
        else:
            content = options.content("dataset", task)
            group = str(content.get("group", "some"))
            run = record(row.method, task, top1 + place, group=group)
            run["task_title"] = content.get("title", task)
        run = titled(copy.deepcopy(run))
        run["id"] += f"{measurement.conditions}{row.settings}"
        run["config"] = {"recipe": {"name": accepts.get("recipe.name")}}
        for key in ("backbone", "protocol"):
            fulfil(run, key, accepts[key])
        run["config"] = copy.deepcopy(dict(claims.composed(run, row.settings)))
        for key, value in {**accepts, **row.settings}.items():
            fulfil(run, key, value)
        made.append(run)
    return made


def known() -> tuple[dict[str, Measurement], dict[str, Claim]]:
    measurements, listed = claims.read(FILE)
    return measurements, {claim.id: claim for claim in listed}


def of(name: str, top1: float = 60.0, **settings: Any) -> list[Record]:
    """Records that measure the first row of a claim, with some settings of the method changed."""
    measurements, listed = known()
    row = listed[name].row
    changed = {f"method.{key}": value for key, value in settings.items()}
    return runs(replace(row, settings={**row.settings, **changed}), measurements[row.by], top1)


def beside(name: str) -> list[Record]:
    """Records of the methods that a claim needs beside its own."""
    measurements, listed = known()
    row = listed[name].row
    made = [runs(Row(row.by, method), measurements[row.by]) for method in listed[name].beside]
    return list(itertools.chain(*made))


def report(records: list[Record]) -> Report:
    return registry.build(records, find("claims"))


def line(records: list[Record], name: str) -> pd.Series:
    """What the report says of a claim."""
    tidy = report(records).tidy.set_index("id")
    found: pd.Series = tidy.loc[name]
    return found


def test_a_figure_is_equal_at_the_printed_digits_or_differs_or_is_not_measured() -> None:
    mean = 26 / 3  # group mean of 0, 1, ..., 18 over the tasks
    table = report([*of("t2-1", 76.74 - mean), *of("t2-2", 77.6 - mean)]).tables[0]
    shown = {
        table.values.loc[row, "id"]: [table.text(row, column) for column in table.columns[1:]]
        for row in table.rows
    }
    assert shown["t2-1"] == ["76.7", "76.74", "+0.04", "equal"]
    assert shown["t2-2"] == ["77.7", "77.60", "−0.10", "differs"]
    assert shown["t2-s"] == ["77.9", "–", "–", "not measured"]
    # the runs of DTL+ have 0.04 M parameters by default, where the paper prints 0.05
    rest = len(shown) - 3
    assert table.notes[0] == f"{len(shown)} claims; equal: 1, differs: 2, not measured: {rest}."
    [footnote] = [n.text for n in table.footnotes if table.rows[6] in n.of]
    assert "experiment=table2_paper" in footnote
    assert "weights vit_base_patch16_224.orig_in21k" in footnote
    assert "needs VTAB-1K, the weights and a GPU" in footnote


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("t2-1", "suite", "mini"),
        ("t2-1", "protocol", "trial"),
        ("t2-1", "backbone", "vit_mini"),
        ("t2-1", "weights", "vit_base_patch16_224.augreg_in21k"),
        ("t2-1", "recipe.name", "default"),
        ("t2-1", "backbone.weights", "nf4"),
        ("t2-1", "train.epochs", 1),  # a value of the recipe, overridden
        ("t2-1", "train.lr", 0.5),
        ("t2-1", "train.label_smoothing", 0.1),  # one that the recipe leaves as it is
        ("t2-s", "train.lr", 0.5),  # the default values, where none are published
        ("t2-s", "train.epochs", 1),
        ("t2-s", "input.resize", 256),
        ("t2-p-6", "method.dropout", 0.5),
        ("t2-1", "method.inject_from", 6),
        ("t2-m-1", "on", "CPU"),
        ("t2-m-1", "precision", "bf16"),
        ("t2-m-1", "attention", "fused"),
        ("t2-m-1", "batch", 64),
        ("t2-p-8", "method.rank", 4),
        ("t2-p-8", "probe.tasks", 19),  # a probe of multi-task inference
        ("t6-1", "device", "NVIDIA H200"),
        ("tasks", "on", "CPU"),
    ],
)
def test_what_cannot_be_compared_is_not_measured(name: str, key: str, value: Any) -> None:
    own = [*of(name), *beside(name)]
    assert line(own, name)["verdict"] != "not measured"
    for run in own:
        fulfil(run, key, value)
    assert line(own, name)["verdict"] == "not measured"


def test_overridden_values_are_named_where_they_cost_a_figure() -> None:
    changed, plain = of("t2-s"), of("t2-s")
    for run in changed:
        run["id"] += "changed"
        fulfil(run, "train.lr", 0.5)
    found = line(changed, "t2-s")
    assert found["runs"] == 0
    assert found["remark"] == "there are records with other values of train.lr"
    assert line([*changed, *plain], "t2-s")["remark"] == ""
    assert line([*changed, *plain], "t2-s")["runs"] == len(plain)


def test_a_mean_needs_every_task() -> None:
    assert line(of("t2-1")[1:], "t2-1")["verdict"] == "not measured"
    assert line(of("t2-pm-3"), "t2-pm-3")["verdict"] == "differs"
    assert line(of("t2-pm-3")[1:], "t2-pm-3")["verdict"] == "not measured"


def test_random_weights_have_no_accuracy() -> None:
    own = of("t2-1")
    for run in own:
        run["provenance"]["checkpoint"]["sha256"] = None
    assert line(own, "t2-1")["verdict"] == "not measured"


def everything(chosen: Iterable[Claim]) -> list[Record]:
    """Records for some claims, each once."""
    measurements, _ = known()
    claimed = list(chosen)
    made = [
        run
        for row in (row for claim in claimed for row in claim.rows)
        if measurements[row.by].report
        for run in runs(row, measurements[row.by])
    ]
    made += itertools.chain(*(beside(claim.id) for claim in claimed))
    return list({run["id"]: run for run in made}.values())


def of_each_kind() -> list[Claim]:
    """The claims that one record measures, and of those of a suite the first of each kind."""
    measurements, listed = known()
    kinds: dict[Any, Claim] = {}
    for claim in listed.values():
        is_probe = measurements[claim.row.by].accepts.get("suite") == "probe"
        kind = claim.id if is_probe else (claim.row.by, claim.minus is None, *claim.beside)
        kinds.setdefault(kind, claim)
    return list(kinds.values())


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_claim_can_be_measured_but_those_of_unknown_settings(every: bool) -> None:
    _, listed = known()
    chosen = list(listed.values()) if every else of_each_kind()
    tidy = report(everything(chosen)).tidy.set_index("id")
    unstated = tidy["measured_by"].str.startswith("Needs settings that the paper")
    assert unstated.sum() == 8
    assert (tidy.loc[unstated, "verdict"] == "not measured").all()
    ids = [claim.id for claim in chosen if not unstated[claim.id]]
    assert len(ids) == (len(listed) - 8 if every else 68)
    missing = tidy.loc[ids][tidy.loc[ids, "verdict"] == "not measured"]
    assert missing.empty, missing


def test_a_figure_may_be_the_difference_to_a_row_of_other_weights() -> None:
    """SSF's published row is from the AugReg weights."""
    measurements, _ = known()
    ssf = runs(Row("vtab_ssf", "ssf"), measurements["vtab_ssf"], top1=58.7)
    found = line([*of("ssf-1", 60.0), *ssf], "ssf-1")
    assert found["measured"] == pytest.approx(1.3)
    assert found["runs"] == 2 * 19
    assert line(of("ssf-1"), "ssf-1")["verdict"] == "not measured"
    assert line(runs(Row("vtab", "ssf"), measurements["vtab"]), "ssf-1")["runs"] == 0


def test_tasks_are_won_against_all_eight_methods_or_not_counted() -> None:
    rivals = beside("wins")
    assert line([*of("wins", 60.0), *rivals], "wins")["measured"] == 19  # equal scores
    fewer = [run for run in rivals if run["title"] != "SSF" or run["group"] != "natural"]
    assert line([*of("wins", 60.0), *fewer], "wins")["verdict"] == "not measured"


def test_saved_memory_is_that_of_the_same_device_and_conditions() -> None:
    own, [full] = of("saved-2"), beside("saved-2")
    full["cost"]["peak_mib"] = {"allocated": 3000.0}
    own[0]["cost"]["peak_mib"] = {"allocated": 1060.0}
    assert line([*own, full], "saved-2")["measured"] == pytest.approx(100 * (1 - 1060 / 3000))
    assert line([*own, full], "t2-m-1")["measured"] == pytest.approx(3000 / 1024)
    assert line(own, "saved-2")["verdict"] == "not measured"


def test_runs_of_two_settings_give_no_figure_and_the_reason() -> None:
    first, second = of("t2-p-8"), of("t2-p-8")
    second[0]["id"] += "b"
    second[0]["config"]["probe"]["steps"] = 7
    found = line([*first, *second], "t2-p-8")
    assert found["verdict"] == "not measured"
    assert "differ in probe.steps (20, 7)" in found["remark"]
    assert any(
        "differ in probe.steps" in n.text for n in report([*first, *second]).tables[0].footnotes
    )


def test_the_committed_records_measure_the_counts() -> None:
    tidy = report([*measured("probe")(), *measured("multitask")()]).tidy.set_index("id")
    assert tidy.loc["t2-p-8", "measured"] == pytest.approx(0.036864)
    assert tidy.loc["t3-p-5", "measured"] == pytest.approx(0.128512)
    differing = set(tidy.index[tidy["verdict"] == "differs"])
    assert differing == {"t1-ssf", "t2-ps"}  # both with a remark
    assert tidy.loc[sorted(differing), "remark"].str.len().gt(0).all()
    found = tidy[tidy["verdict"] != "not measured"]
    assert set(found["report"]) == {"costs"}
    assert len(found) == 21


def test_without_records_every_claim_says_what_it_needs() -> None:
    tidy = report([]).tidy
    assert set(tidy["verdict"]) == {"not measured"}
    assert tidy["measured_by"].str.contains("needs", case=False).all()


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "mini"},
        {"backbone": "vit_b16"},
        {"methods": ("lora",)},
        {"vary": {"a": "b"}},
        {"protocol": "trial"},
    ],
)
def test_a_selection_of_records_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"leave out --suite, .*, --methods and"):
        registry.build([], replace(find("claims"), **change))


def test_intervals_are_refused() -> None:
    with pytest.raises(UserError, match="single figures; leave out --intervals"):
        registry.build([], replace(find("claims"), intervals=True))


def test_the_file_of_claims_is_consistent() -> None:
    measurements, listed = known()
    every = claims.read(FILE)[1]
    assert len(listed) == len(every) == len({claim.text for claim in every})
    used = {row.by for claim in every for row in claim.rows}
    assert used == set(measurements)
    for measurement in measurements.values():
        if measurement.report:
            assert {"suite", "protocol", "backbone"} <= set(measurement.accepts)
            assert CONDITIONS.keys() >= {k for k in measurement.accepts if "." not in k}
        for name in re.findall(r"experiment=(\w+)", measurement.command):
            assert name in options.names("experiment")
    for row in (row for claim in every for row in claim.rows):
        assert row.method in options.names("method")


@pytest.mark.parametrize(
    ("name", "file"), [("f4-1", "fig4_partial"), ("t5-0", "table5_ablation_vit_b16")]
)
def test_figures_of_the_file_of_claims_are_those_of_the_tables(name: str, file: str) -> None:
    """Those that are not read from a table because its names are sentences."""
    figures = {
        value for row in published.rows(f"dtl_aaai2024/{file}") for value in row.cells.values()
    }
    assert float(known()[1][name].printed) in figures


def test_an_unknown_file_of_claims_is_named() -> None:
    with pytest.raises(UserError, match=r"results/published has no 'dtl/claims.yaml'"):
        claims.read("dtl/claims")
