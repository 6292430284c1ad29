"""Accuracy on val against the number of trials: what the choice of values cost, and what it gave.

For each method, the expected top-1 on val of the best of k trials, for k up to the number that
was done, as a mean over tasks that each choose their own values. The test score is known for the
choice among all trials alone, from the final runs with its values.
"""

from collections.abc import Sequence
from statistics import fmean

import pandas as pd

from petlbench.config.job_nodes import FINAL, TRIAL
from petlbench.errors import UserError
from petlbench.report.model.chart import Axis, Chart, Panel, Point, Series
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.model.table import Column, Table
from petlbench.report.read import rows
from petlbench.report.read.scores import tidy
from petlbench.report.read.select import completed, of_suite
from petlbench.report.read.trials import Tried, expected_best, tried
from petlbench.report.table.provenance import row_text
from petlbench.run.record import Record

DEFAULTS = {"title": "Accuracy against trials", "protocol": TRIAL}
VAL, TEST = "Best of k trials, top-1 on val", "Top-1 on test"
Curve = list[float]  # of k = 1, 2, ...


def build(records: Sequence[Record], spec: ReportSpec) -> Report:
    """Raises UserError without trials, and for rows whose tasks differ."""
    if spec.protocol != TRIAL:
        raise UserError(f"--protocol is {spec.protocol}; this report shows trials, leave it out")
    spec = completed(records, spec)
    chosen = [
        record
        for record in of_suite(records, spec)
        if record["factors"]["backbone"] == spec.backbone and record["protocol"] in (TRIAL, FINAL)
    ]
    labels = rows.labels(chosen, spec.vary)
    found = tried(chosen, labels)
    if not found:
        raise UserError("no pair of method and backbone among these trials is supported")
    by_row = {
        row: {task: own for (name, task), own in found.items() if name == row}
        for row in rows.ordered(chosen, labels, list(spec.vary))
        if any(name == row for name, _ in found)
    }
    _refuse_other_tasks(by_row)
    curves = {row: _curve(list(own.values())) for row, own in by_row.items()}
    by_label: dict[str, list[Record]] = {row: [] for row in curves}
    for record in chosen:
        if labels[record["id"]] in by_label:
            by_label[labels[record["id"]]].append(record)
    provenance = {row: row_text(row, own) for row, own in by_label.items()}
    table = _table(by_row, curves, provenance)
    frame = tidy(chosen, list(spec.vary), labels)
    methods = {row: own[0]["factors"]["method"] for row, own in by_label.items()}
    return Report(spec.title, [table], frame, [_chart(curves, methods, provenance)])


def _refuse_other_tasks(by_row: dict[str, dict[str, Tried]]) -> None:
    """A mean over fewer tasks would not compare."""
    every = {task for own in by_row.values() for task in own}
    for row, own in by_row.items():
        if missing := sorted(every - own.keys()):
            raise UserError(
                f"{row} has no trials on {', '.join(missing)}, which other rows have; do them, or "
                "give other folders with --records"
            )


def _curve(tasks: Sequence[Tried]) -> Curve:
    """The expected best of k trials, a mean over tasks, up to the fewest trials of a task."""
    most = min(len(own.scores) for own in tasks)
    return [fmean(expected_best(own.scores, k) for own in tasks) for k in range(1, most + 1)]


def _table(
    by_row: dict[str, dict[str, Tried]], curves: dict[str, Curve], provenance: dict[str, str]
) -> Table:
    most = max(map(len, curves.values()))
    steps = [k for k in (2**n for n in range(most.bit_length())) if k < most] + [most]
    columns = [Column("trials", "trials", "Tried", 0)]
    columns += [Column(f"best_{k}", str(k), VAL, best="high") for k in steps]
    columns += [Column("test", "final runs of the choice", TEST, best="high")]
    values = {
        row: {"trials": len(curve), "test": _test(list(by_row[row].values()))}
        | {f"best_{k}": curve[k - 1] for k in steps if k <= len(curve)}
        for row, curve in curves.items()
    }
    frame = pd.DataFrame.from_dict(values, orient="index", dtype=float)
    return Table(
        rows=list(curves),
        columns=columns,
        values=frame.reindex(columns=[column.key for column in columns]),
        spread=pd.DataFrame(index=list(curves)),
        caption="Top-1 (%) on val of the best of k trials. Best in bold, second underlined.",
        provenance={(row, ""): text for row, text in provenance.items()},
        notes=_notes(by_row, curves),
    )


def _test(tasks: Sequence[Tried]) -> float | None:
    """Mean over tasks of the final runs of the choice, None if a task has none."""
    scores = [score for own in tasks if (score := own.test_of_choice) is not None]
    return fmean(scores) if len(scores) == len(tasks) else None


def _notes(by_row: dict[str, dict[str, Tried]], curves: dict[str, Curve]) -> list[str]:
    tasks = list(dict.fromkeys(task for own in by_row.values() for task in own))
    notes = [
        f"Mean over {len(tasks)} tasks, each with values of its own: {', '.join(tasks)}.",
        "Best of k: expectation over all subsets of k of the trials that were done (Tang et al. "
        "2020, the unbiased form of Dodge et al. 2019). Val is what the choice is made on: expect "
        "less on test.",
        "Test: final runs with the values of the best trial, or with those chosen for the suite; "
        "the test score of a choice among fewer trials is not known.",
    ]
    if len(set(map(len, curves.values()))) > 1:
        counts = ", ".join(f"{row} {len(curve)}" for row, curve in curves.items())
        notes.append(f"The numbers of trials differ: {counts}. Compare rows at equal numbers.")
    failed = {row: sum(own.failed for own in tasks.values()) for row, tasks in by_row.items()}
    if listed := ", ".join(f"{row} {number}" for row, number in failed.items() if number):
        notes.append(f"Failed trials, which count as tried, with 0 %: {listed}.")
    return notes


def _chart(curves: dict[str, Curve], methods: dict[str, str], provenance: dict[str, str]) -> Chart:
    x = Axis("number of trials", marks=range(1, max(map(len, curves.values())) + 1))
    series = [
        Series(
            row,
            [_point(row, k, y, provenance[row]) for k, y in enumerate(curve, 1)],
            method=methods[row],
        )
        for row, curve in curves.items()
    ]
    panel = Panel("Choice on val", x, Axis("expected top-1 on val (%)"), series, joined=True)
    return Chart("trials", "Expected top-1 (%) on val of the best of k trials.", [panel])


def _point(row: str, k: int, y: float, runs: str) -> Point:
    figure = f"{row}\nbest of {k} trials: {y:.1f} % on val"
    return Point(k, y, provenance="\n".join([figure, *runs.split("\n")[1:]]))
