"""Measured rows beside published ones, and printed averages recomputed from printed cells."""

from collections.abc import Sequence
from dataclasses import replace
from math import nan

import pandas as pd

from petlbench.errors import UserError
from petlbench.report import accuracy, published
from petlbench.report.document import Report
from petlbench.report.published import Row
from petlbench.report.rows import grouped
from petlbench.report.scores import GROUP_MEAN, Scores, gather
from petlbench.report.table import Column, Table
from petlbench.report.view import View
from petlbench.run.record import Record

SUITE = "vtab"
FILES = (
    "dtl_aaai2024/table2_vtab_vit_b16",
    "dtl_aaai2024/table3_vtab_swin_b",
    "vtab_vit_b16_literature",
)
VIEW = {"title": "Audit against published numbers", "suite": SUITE, "published": FILES}
HALF = 0.05  # what rounding to one digit may move a figure by
SLACK = 1e-9  # of comparing sums of decimals
MARKS = {
    "agrees": "the average is that of the cells, rounded",
    "rounding": "explained if cells and average were rounded, or the average cut off",
    "differs": "more than rounding can explain",
}


def build(records: Sequence[Record], view: View, *, tolerance: float = 1.0) -> Report:
    """Without records the published averages only. tolerance: points of a marked difference."""
    rows = [row for file in view.published for row in published.rows(file)]
    averages = _averages(rows)
    if not records:
        return Report(view.title, [averages], averages.wide().reset_index(names="row"))
    scores = gather(records, replace(view, published=()))
    ours = [row for row in rows if row.backbone == scores.view.backbone]
    beside, tidy = _beside(scores, ours, tolerance)
    averages.name = "averages"
    return Report(view.title, [beside, averages], tidy)


def _averages(rows: Sequence[Row]) -> Table:
    """Every published row with an average: printed, recomputed, difference, verdict."""
    groups = grouped(SUITE)
    found: dict[str, list[float | str]] = {}
    flags: dict[tuple[str, str], str] = {}
    for row in rows:
        printed, mean = row.cells.get(GROUP_MEAN), _recomputed(row, groups)
        if printed is not None and mean is not None:
            verdict = _verdict(abs(printed - mean))
            label = published.named(row)
            found[label] = [printed, mean, printed - mean, verdict]
            flags |= {(label, "difference"): "≠"} if verdict == "differs" else {}
    if not found:
        raise UserError("none of these published rows has an average and the cells behind it")
    columns = [
        Column("printed", "printed", "Average", 1),
        Column("recomputed", "recomputed", "Average", 2),
        Column("difference", "difference", "Average", 2),
        Column("verdict", "verdict", "Average", None),
    ]
    keys = [column.key for column in columns]
    values = pd.DataFrame.from_dict(found, orient="index", columns=keys)
    return Table(
        rows=list(found),
        columns=columns,
        values=values,
        spread=pd.DataFrame(index=list(found)),
        caption="Published averages: as printed, and recomputed from the printed cells.",
        head="published row",
        aside=frozenset(found),
        flags=flags,
        notes=[
            "Recomputed: mean of the three group means of the printed cells.",
            *(f"{mark}: {meaning}." for mark, meaning in MARKS.items()),
        ],
    )


def _recomputed(row: Row, groups: dict[str, list[str]]) -> float | None:
    """Mean of the group means, from tasks or from the groups' own figures."""
    if all(group.capitalize() in row.cells for group in groups):
        return sum(row.cells[group.capitalize()] for group in groups) / len(groups)
    if not all(task in row.cells for tasks in groups.values() for task in tasks):
        return None
    means = [sum(row.cells[task] for task in tasks) / len(tasks) for tasks in groups.values()]
    return sum(means) / len(means)


def _verdict(difference: float) -> str:
    if difference <= HALF + SLACK:
        return "agrees"
    return "rounding" if difference <= 2 * HALF + SLACK else "differs"


def _beside(scores: Scores, rows: Sequence[Row], tolerance: float) -> tuple[Table, pd.DataFrame]:
    """For each measured row: itself, each published row of its method, and the difference."""
    table = accuracy.table_of(scores, scores.tasks, [GROUP_MEAN], [])
    methods = {row: record["factors"]["method"] for row, record in scores.labelled}
    order: list[str] = []
    labelled: list[tuple[str, Row]] = []
    tidy: list[dict[str, object]] = []
    for own in scores.rows:
        order.append(own)
        table.sections = {**table.sections, own: own}
        table.names[own] = "measured"
        for row in (row for row in rows if row.method == methods[own]):
            pair = _pair(table, own, row, tolerance)
            labelled.append((pair[0], row))
            order += pair
            tidy += _tidy(table, own, row)
    if len(order) == len(scores.rows):
        raise UserError(
            f"no published row on {scores.view.backbone} is of "
            f"{', '.join(sorted(set(methods.values())))}; "
            "results/published/sources.yaml says which methods published names mean"
        )
    published.say(table, labelled)
    table.rows = order
    table.columns = [replace(column, best=None) for column in table.columns]
    table.caption = "Measured rows beside published ones; difference = measured − published."
    table.notes = [
        *table.notes,
        f"*: differs by more than {tolerance:g} percentage point{'s' * (tolerance != 1)}.",
    ]
    return table, pd.DataFrame(tidy)


def _pair(table: Table, own: str, row: Row, tolerance: float) -> list[str]:
    """The labels of a published row and of the difference to it, put into the table."""
    label, apart = f"{own}: {row.source}", f"{own}: measured − {row.source}"
    theirs = {c.key: row.cells.get(c.title, row.cells.get(c.key, nan)) for c in table.columns}
    differences = {key: table.values.loc[own, key] - value for key, value in theirs.items()}
    shown = {label: (row.source, theirs), apart: (f"measured − {row.source}", differences)}
    for name, (told, figures) in shown.items():
        source = f"{name}\n{row.note()}"
        table.append(name, told, figures, method=own, section=own, origin=source)
    for key, difference in differences.items():
        if abs(difference) > tolerance:
            table.flags[apart, key] = "*"
    return [label, apart]


def _tidy(table: Table, own: str, row: Row) -> list[dict[str, object]]:
    label = f"{own}: {row.source}"
    return [
        {
            "row": own,
            "cell": column.key,
            "measured": table.values.loc[own, column.key],
            "std": table.spread.loc[own, column.key],
            "published": table.values.loc[label, column.key],
            "difference": table.values.loc[own, column.key] - table.values.loc[label, column.key],
            "source": row.source,
            "selection": row.selection,
            "provenance": row.provenance,
        }
        for column in table.columns
    ]
