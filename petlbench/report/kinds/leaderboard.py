"""Methods in the order of their average rank over tasks, with tests, charts and every cell."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from petlbench.report.draw import tradeoff
from petlbench.report.model.chart import Chart, Ranks
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.model.table import COST, MEAN, MINUS, Column, Table
from petlbench.report.read.means import GROUP_MEAN, TASK_MEAN
from petlbench.report.read.records import read
from petlbench.report.read.scores import Scores, gather
from petlbench.report.table import accuracy, derived, statistics
from petlbench.run.record import Record
from petlbench.units import counted

DEFAULTS = {"title": "Leaderboard"}
RANK = Column("average_rank", "average rank", "Over tasks", 2, best="low")
GAP = Column("gap", "behind the highest", "Over tasks", 1)
INTERVAL = Column("interval", "95 % interval of it", "Over tasks", None)


def build(
    records: Sequence[Record],
    spec: ReportSpec,
    *,
    community: Sequence[str] = (),
    ppt: bool = False,
) -> Report:
    """Rows without a score on every task are last, without a rank.

    ppt: a column with the trade-off of the task mean and the number of parameters.

    community: folders of contributed records. They have a table of their own, whose ranks, means
    and best figures count no measured and no published row.
    """
    scores = gather(records, spec)
    ranks = statistics.average_ranks(scores.means[scores.keys])
    table = _table(scores, ranks, ppt)
    charts: list[Chart | Ranks] = [
        *tradeoff.charts(scores, table, TASK_MEAN),
        *_diagram(ranks, scores),
    ]
    tables, tidy = [table], scores.tidy
    if community:
        # the suite and backbone of the measured records; published rows have their place there
        of_others = read([Path(folder) for folder in community])
        others = gather(of_others, replace(scores.spec, published=()), keys=scores.keys)
        tables.append(_contributed(others, ppt))
        tidy = pd.concat(
            [tidy.assign(source="measured"), others.tidy.assign(source="community")],
            ignore_index=True,
        )
    return Report(spec.title, tables, tidy, charts, charts_first=False)


def _contributed(scores: Scores, ppt: bool) -> Table:
    """The table of contributed records."""
    table = _table(scores, statistics.average_ranks(scores.means[scores.keys]), ppt)
    table.name = "community"
    table.caption = f"Contributed by others, ranked among themselves. {table.caption}"
    table.notes = [
        "Others made these runs, and nobody here has repeated them; `python -m petlbench.records "
        "check` checks the records.",
        *table.notes,
    ]
    return table


def _table(scores: Scores, ranks: pd.Series, ppt: bool) -> Table:
    """The rows in the order of their ranks, with every task."""
    means = [GROUP_MEAN, TASK_MEAN]
    # no task as a column yet, but the table has their figures: the columns are set below
    table = accuracy.accuracy_table(scores, [], means, ("parameters_m", "memory"))
    if ppt:
        derived.add_ppt(table)
    table.values = table.values.join(ranks.rename(RANK.key)).join(_gaps(scores))
    costs = [column for column in table.columns if column.group == COST]
    # one head over rank, means and gap
    averages = [replace(c, group=RANK.group) for c in table.columns if c.group == MEAN]
    gaps = [GAP, INTERVAL] if len(scores.keys) >= statistics.FEWEST else [GAP]
    table.columns = [RANK, *averages, *gaps, *costs, *scores.tasks]
    table.rows = _in_order(table, ranks)
    table.sections = {}  # families would break the order of ranks
    table.caption = "Methods by their average rank over tasks. " + accuracy.CAPTION
    table.notes = [*table.notes, *_rank_notes(scores, ranks)]
    return table


def _in_order(table: Table, ranks: pd.Series) -> list[str]:
    measured = [row for row in table.rows if row not in table.unranked]
    # sorted is stable: equal ranks, and rows without one, keep the order of scores.rows
    ranked = sorted(measured, key=lambda row: ranks.get(row, float("inf")))
    return [*ranked, *(row for row in table.rows if row in table.unranked)]


def _gaps(scores: Scores) -> pd.DataFrame:
    """Difference to the best mean over tasks, and its bootstrap interval."""
    means = scores.means[scores.keys]
    if len(statistics.complete(means)) < 2:
        return pd.DataFrame(columns=[GAP.key, INTERVAL.key], dtype=object)
    # the best row itself is missing here and gets dashes
    against = statistics.against_best(means)
    ends = zip(against["low"], against["high"], strict=True)
    enough = len(scores.keys) >= statistics.FEWEST
    spans = [
        f"[{low:z.1f}, {high:z.1f}]".replace("-", MINUS) if enough else None for low, high in ends
    ]
    return pd.DataFrame({GAP.key: against["difference"], INTERVAL.key: spans})


def _rank_notes(scores: Scores, ranks: pd.Series) -> list[str]:
    """How ranks and intervals are computed, and the rows without a rank."""
    tasks = len(scores.keys)
    interval = (
        f"its interval is the middle 95 % of a paired bootstrap over tasks ({statistics.SAMPLES} "
        "samples; none over one task)."
        if tasks >= statistics.FEWEST
        else f"no interval of it: a bootstrap over tasks needs at least {statistics.FEWEST}."
    )
    lines = [
        f"Average rank: mean over {counted(tasks, 'task')} of the rank of the mean over "
        "runs; equal scores share a rank. Behind the highest: difference of task means; "
        + interval
    ]
    if missing := [row for row in scores.rows if row not in ranks]:
        lines.append(f"Without a score on every task, hence without a rank: {', '.join(missing)}.")
    return lines


def _diagram(ranks: pd.Series, scores: Scores) -> list[Ranks]:
    if len(ranks) < 2:
        return []
    tasks = len(scores.keys)
    critical = statistics.critical_difference(len(ranks), tasks) if tasks > 1 else None
    # Ranks shows this text only if there is a critical difference
    test = f"critical difference {critical or 0:.2f} (Nemenyi's test, {len(ranks)} methods, "
    return [
        Ranks(
            "ranks",
            "Average rank over tasks; 1 is best.",
            {str(row): float(value) for row, value in ranks.items()},
            critical,
            test + f"{tasks} tasks, level {statistics.LEVEL})",
        )
    ]
