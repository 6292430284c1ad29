"""Measured rows beside published ones, and published averages recomputed from their cells."""

from collections.abc import Sequence
from dataclasses import replace
from math import nan

import pandas as pd

from petlbench.errors import UserError
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.model.table import Column, Table, headed
from petlbench.report.read.means import GROUP_MEAN, TASK_MEAN
from petlbench.report.read.rows import tasks_by_group
from petlbench.report.read.scores import Scores, gather
from petlbench.report.table import published
from petlbench.report.table.accuracy import accuracy_table
from petlbench.report.table.published import PublishedRow
from petlbench.run.record import Record

SUITE = "vtab"
FILES = (
    "dtl_aaai2024/table2_vtab_vit_b16",
    "dtl_aaai2024/table3_vtab_swin_b",
    "vtab_vit_b16_literature",
    "vtab_swin_b_literature",
)
DEFAULTS = {"title": "Audit against published numbers", "suite": SUITE, "published": FILES}
HALF = 0.05  # largest error of rounding to one decimal
SLACK = 1e-9  # for the floating-point error of sums
VERDICTS = {
    "agrees": "the average is the rounded mean of the cells",
    "rounding": "explained if both cells and average were rounded, or the average truncated",
    "differs": "more than rounding explains",
}
MEANS = {GROUP_MEAN: "groups", TASK_MEAN: "tasks"}
AVERAGE_COLUMNS = [
    Column("of", "of", "Average", None),
    Column("printed", "printed", "Average", 1),
    Column("recomputed", "recomputed", "Average", 2),
    Column("difference", "difference", "Average", 2),
    Column("verdict", "verdict", "Average", None),
]


def build(records: Sequence[Record], spec: ReportSpec, *, tolerance: float = 1.0) -> Report:
    """Without records only the published averages. tolerance: unmarked difference, in points."""
    rows = [row for file in spec.published for row in published.rows(file)]
    averages = _averages(rows)
    if not records:
        return Report(spec.title, [averages], averages.unrounded().reset_index(names="row"))
    # published rows are added below the measured row that they belong to, not at the end
    scores = gather(records, replace(spec, published=()))
    same_backbone = [row for row in rows if row.backbone == scores.spec.backbone]
    beside, tidy = _beside(scores, same_backbone, tolerance)
    averages.name = "averages"  # only the first table has no name
    return Report(spec.title, [beside, averages], tidy)


def _averages(rows: Sequence[PublishedRow]) -> Table:
    """Every published row with an average: printed, recomputed, difference, verdict."""
    groups = tasks_by_group(SUITE)
    lines: dict[str, list[float | str]] = {}
    for row in rows:
        for key, name in MEANS.items():
            printed, mean = row.cells.get(key), _recomputed(row, groups, key)
            if printed is not None and mean is not None:
                verdict = _verdict(abs(printed - mean))
                lines[published.label_of(row)] = [name, printed, mean, printed - mean, verdict]
    if not lines:
        raise UserError("none of these published rows has an average and the cells behind it")
    keys = [column.key for column in AVERAGE_COLUMNS]
    values = pd.DataFrame.from_dict(lines, orient="index", columns=keys)
    return Table(
        rows=list(lines),
        columns=AVERAGE_COLUMNS,
        values=values,
        spread=pd.DataFrame(index=list(lines)),
        caption="Published averages: as printed, and recomputed from the printed cells.",
        head="published row",
        unranked=frozenset(lines),  # all rows are published
        flags={
            (label, "difference"): "≠" for label in values.index[values["verdict"] == "differs"]
        },
        notes=[
            "Recomputed from the printed cells: mean of the three group means, or of all tasks.",
            *(f"{verdict}: {meaning}." for verdict, meaning in VERDICTS.items()),
        ],
    )


def _recomputed(row: PublishedRow, groups: dict[str, list[str]], key: str) -> float | None:
    """The mean of a key of MEANS, from the printed groups or tasks; None if some are missing."""
    every = [task for tasks in groups.values() for task in tasks]
    if key == TASK_MEAN:
        if all(task in row.cells for task in every):
            return sum(row.cells[task] for task in every) / len(every)
        if all(headed(group) in row.cells for group in groups):
            weighted = (len(tasks) * row.cells[headed(group)] for group, tasks in groups.items())
            return sum(weighted) / len(every)
        return None
    # Table 3 of the DTL paper prints groups only
    if all(headed(group) in row.cells for group in groups):
        return sum(row.cells[headed(group)] for group in groups) / len(groups)
    if not all(task in row.cells for task in every):
        return None
    means = [sum(row.cells[task] for task in tasks) / len(tasks) for tasks in groups.values()]
    return sum(means) / len(means)


def _verdict(difference: float) -> str:
    if difference <= HALF + SLACK:
        return "agrees"
    # rounded cells move their mean by at most HALF; the printed average adds HALF
    return "rounding" if difference <= 2 * HALF + SLACK else "differs"


def _beside(
    scores: Scores, rows: Sequence[PublishedRow], tolerance: float
) -> tuple[Table, pd.DataFrame]:
    """For each measured row: itself, each published row of its method, and the difference."""
    table = accuracy_table(scores, scores.tasks, [GROUP_MEAN], [])
    methods = {row: record["factors"]["method"] for row, record in scores.labelled}
    order: list[str] = []
    labelled: list[tuple[str, PublishedRow]] = []
    tidy: list[dict[str, object]] = []
    for own in scores.rows:
        order.append(own)
        # a section a measured row, with its published rows and their differences
        table.sections = {**table.sections, own: own}
        table.names[own] = "measured"
        for row in (row for row in rows if row.method == methods[own]):
            pair = _pair(table, own, row, tolerance)
            labelled.append((pair[0], row))
            order += pair
            tidy += _tidy(table, own, row)
    if not labelled:
        raise _nothing_published(scores, set(methods.values()))
    published.add_footnotes(table, labelled)
    table.rows = order
    # differences stand between the rows, so no figure is marked as the best
    table.columns = [replace(column, best=None) for column in table.columns]
    table.caption = "Measured rows beside published ones; difference = measured − published."
    table.notes = [
        *table.notes,
        f"*: differs by more than {tolerance:g} percentage point{'s' * (tolerance != 1)}.",
    ]
    return table, pd.DataFrame(tidy)


def _nothing_published(scores: Scores, methods: set[str]) -> UserError:
    return UserError(
        f"no published row on {scores.spec.backbone} for {', '.join(sorted(methods))}; "
        "results/published/sources.yaml maps published names to methods"
    )


def _pair(table: Table, own: str, row: PublishedRow, tolerance: float) -> list[str]:
    """Add a published row and the difference to it to the table; their labels."""
    label, difference_label = f"{own}: {row.source}", f"{own}: measured − {row.source}"
    theirs = {c.key: row.cells.get(c.title, row.cells.get(c.key, nan)) for c in table.columns}
    differences = {key: table.values.loc[own, key] - value for key, value in theirs.items()}
    for name, printed_label, figures in (
        (label, row.source, theirs),
        (difference_label, f"measured − {row.source}", differences),
    ):
        text = f"{name}\n{row.note()}"
        table.append_unranked(
            name, printed_label, figures, method=own, section=own, provenance=text
        )
    for key, difference in differences.items():
        if abs(difference) > tolerance:
            table.flags[difference_label, key] = "*"
    return [label, difference_label]


def _tidy(table: Table, own: str, row: PublishedRow) -> list[dict[str, object]]:
    """A line a cell of a published row, with the measured figure beside it."""
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
