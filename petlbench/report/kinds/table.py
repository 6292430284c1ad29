"""Accuracy of each method on each task, means, costs: Tables 2 to 5 of the DTL paper."""

from collections.abc import Mapping, Sequence

from petlbench.errors import unknown
from petlbench.report.draw import tradeoff
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.model.table import Column
from petlbench.report.read.costs import USUAL
from petlbench.report.read.means import GROUP_MEAN, TASK_MEAN
from petlbench.report.read.scores import Scores, gather
from petlbench.report.table import derived
from petlbench.report.table.accuracy import accuracy_table
from petlbench.run.record import Record

DEFAULTS = {"title": "Accuracy and cost"}
COLUMNS = ("tasks", "groups", "means")


def build(
    records: Sequence[Record],
    spec: ReportSpec,
    *,
    columns: str = "tasks",
    tests: Mapping[str, Sequence[str]] | None = None,
    means: Sequence[str] = (GROUP_MEAN, TASK_MEAN),
    costs: Sequence[str] = USUAL,
    without: Sequence[str] = (),
    wins_against: Sequence[str] = (),
    savings: Sequence[Mapping[str, str]] = (),
    ppt: bool = False,
) -> Report:
    """columns: tasks, groups, or means only. tests: test set -> [title, group].

    without: tasks that a further group mean leaves out. wins_against: methods with which the
    column of won tasks compares a row. savings: see `petlbench.report.table.derived.Saving`.
    ppt: a column with the trade-off of the task mean and the number of parameters.
    """
    scores = gather(records, spec, tests)
    table = accuracy_table(scores, _score_columns(scores, columns), means, costs)
    if without:
        derived.add_mean_without(table, scores, without)
    if wins_against:
        derived.add_wins(table, scores, wins_against)
    derived.add_savings(table, scores, [derived.Saving(**saving) for saving in savings])
    if ppt:
        derived.add_ppt(table)
    # the axes of the chart are the first mean and two costs
    charts = tradeoff.charts(scores, table, means[0]) if means and costs else []
    return Report(spec.title, [table], scores.tidy, charts, charts_first=False)


def _score_columns(scores: Scores, columns: str) -> list[Column]:
    choices = dict(zip(COLUMNS, (scores.tasks, scores.group_columns(), []), strict=True))
    if columns not in choices:
        raise unknown("columns of a table", columns, choices)
    return list(choices[columns])
