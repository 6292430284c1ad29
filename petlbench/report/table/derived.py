"""Columns made from the others: what a row saves, the tasks it wins, other means, PPT.

Rows are compared with rows of the same source only: measured ones, or those of one publication.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from petlbench.config import options
from petlbench.cost.figures import COSTS
from petlbench.errors import unknown
from petlbench.report.model.table import COST, MEAN, Column, Table
from petlbench.report.read import costs, fields, means
from petlbench.report.read.scores import Scores
from petlbench.report.table import published
from petlbench.report.table.statistics import DIGITS, complete

OVER_TASKS = "Over tasks"
PPT_PARAMETERS_M = 10.0  # the constant C of V-PETL Bench


@dataclass(frozen=True)
class Saving:
    """How much less a row costs than a method, in percent.

    cost: a key of COSTS, or memory. method: which it is compared with, as in conf/method.
    of: the cost of that method, if it is another one.
    """

    title: str
    cost: str
    method: str
    of: str = ""


def add_savings(table: Table, scores: Scores, savings: Sequence[Saving]) -> None:
    """A column a saving; rows of a source without the method have none.

    A time is compared with one of the same device only.
    """
    methods = published.methods(scores)
    for number, saving in enumerate(savings):
        elsewhere = _elsewhere(scores, saving.method)
        column = Column(f"saving_{number}", saving.title, COST)
        keys = costs.resolved([saving.cost, saving.of or saving.cost], scores.finished)
        figures: dict[str, float] = {}
        for rows in _sources(table):
            own, other = keys if rows[0] not in table.unranked else _published(keys, saving)
            if own in table.values and other in table.values:
                saved = _saved(table.values.loc[rows], own, other, methods, saving.method)
                alone = elsewhere if COSTS[keys[0]].timed else ()
                figures |= {row: figure for row, figure in saved.items() if row not in alone}
        _add(table, column, figures, table.columns)
        begin = saving.title[0].upper() + saving.title[1:]
        rule = ", on the same device" if COSTS[keys[0]].timed else ""
        table.notes = [*table.notes, f"{begin}: by the figures of the row's own source{rule}."]


def add_wins(table: Table, scores: Scores, rivals: Sequence[str]) -> None:
    """The number of tasks on which a row is at least as good as each row of the rivals.

    rivals: names of methods. Rows without a score on every task are not compared.
    """
    methods = published.methods(scores)
    column = Column("wins", f"tasks won of {len(scores.keys)}", OVER_TASKS, 0)
    figures: dict[str, float] = {}
    for rows in _sources(table):
        cells = complete(table.values.loc[rows, scores.keys].astype(float)).round(DIGITS)
        of_rivals = [row for row in cells.index if methods.get(row) in rivals]
        for row in cells.index:
            if others := [other for other in of_rivals if other != row]:
                figures[row] = float((cells.loc[row] >= cells.loc[others].max()).sum())
    _add(table, column, figures, _up_to_means(table))
    titles = [options.content("method", rival).get("title", rival) for rival in rivals]
    table.notes = [
        *table.notes,
        f"Tasks won: tasks on which a row is at least as good as {', '.join(titles)}, as far as "
        "its own source has them.",
    ]


def add_mean_without(table: Table, scores: Scores, tasks: Sequence[str]) -> None:
    """The group mean over all tasks but some; none of them: no column, as for another suite.

    Raises UserError if the table has some of them only.
    """
    known = {task.key: task for task in scores.tasks}
    if not known.keys() & set(tasks):
        return
    for name in tasks:
        if name not in known:
            raise unknown("task of the table", name, known)
    rest = [task for key, task in known.items() if key not in tasks]
    keys = [task.key for task in rest]
    title = f"{means.GROUP_MEAN} without {', '.join(known[name].title for name in tasks)}"
    column = Column("mean_without", title, MEAN, best="high")
    cells = table.values.reindex(columns=keys).astype(float)
    figures = means.averages(rest, cells, means.mean)[means.GROUP_MEAN]
    _add(table, column, figures.to_dict(), _up_to_means(table))
    spread = means.averages(rest, table.spread.reindex(columns=keys), means.deviation)
    table.spread = table.spread.assign(**{column.key: spread[means.GROUP_MEAN]})


def add_ppt(table: Table) -> None:
    """The performance-parameter trade-off of V-PETL Bench (NeurIPS 2024), between 0 and 1.

    PPT = M exp(-log10(P / C + 1)), with the task mean M as a fraction, the method's parameters P
    without the head, and C = 10 million. Rows without a mean or a count have none.
    """
    column = Column("ppt", "PPT", COST, 3, best="high")
    cells = table.values.reindex(columns=[means.TASK_MEAN, published.PARAMETERS]).astype(float)
    score, millions = (cells[key] for key in cells)
    figures = score / 100 * np.exp(-np.log10(millions / PPT_PARAMETERS_M + 1))
    _add(table, column, figures.to_dict(), table.columns)
    table.notes = [
        *table.notes,
        "PPT: task mean (as a fraction) times exp(-log10(P / 10 M + 1)), P: parameters of the "
        "method; the performance-parameter trade-off of V-PETL Bench.",
    ]


def _add(
    table: Table, column: Column, figures: Mapping[str, float], before: Sequence[Column]
) -> None:
    """Set a column behind those `before`."""
    values = pd.Series(figures, dtype=float).reindex(table.values.index)
    table.values = table.values.assign(**{column.key: values})
    table.columns = [*before, column, *table.columns[len(before) :]]


def _up_to_means(table: Table) -> list[Column]:
    """The columns up to the last mean."""
    last = max(
        (n for n, column in enumerate(table.columns) if column.group in (MEAN, OVER_TASKS)),
        default=-1,
    )
    return list(table.columns[: last + 1])


def _saved(
    values: pd.DataFrame, own: str, other: str, methods: Mapping[str, str], method: str
) -> dict[str, float]:
    """Percent that each row saves; none if the method has no row, or several."""
    reference = [row for row in values.index if methods.get(row) == method]
    base = float(values.loc[reference[0], other]) if len(reference) == 1 else nan
    # the method itself is the reference where it is compared by the same cost
    return {
        row: 100 * (1 - float(values.loc[row, own]) / base) if base else nan
        for row in values.index
        if own != other or row not in reference
    }


def _elsewhere(scores: Scores, method: str) -> set[str]:
    """The measured rows that did not all run on the one device of the method."""
    devices: dict[str, set[str]] = {}
    of_method: set[str] = set()
    for row, record in fields.finished(scores.labelled):
        device = str(record["provenance"]["device"])
        devices.setdefault(row, set()).add(device)
        if record["factors"]["method"] == method:
            of_method.add(device)
    return {row for row, seen in devices.items() if len(seen | of_method) > 1}


def _published(keys: Sequence[str], saving: Saving) -> tuple[str, str]:
    """The keys of the published figures: memory has one of its own."""
    own, other = (published.MEMORY if saving.cost == costs.MEMORY else key for key in keys)
    return own, other


def _sources(table: Table) -> Iterator[list[str]]:
    """The rows of each source: the measured ones, then those of each publication."""
    yield table.measured_rows
    others = [row for row in table.rows if row in table.unranked]
    for section in dict.fromkeys(table.sections.get(row, "") for row in others):
        yield [row for row in others if table.sections.get(row, "") == section]
