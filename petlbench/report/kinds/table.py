"""Accuracy of each method on each task, means, costs: Tables 2 to 5 of the DTL paper."""

from collections.abc import Mapping, Sequence

from petlbench.errors import unknown
from petlbench.report import accuracy, tradeoff
from petlbench.report.costs import PLAIN
from petlbench.report.document import Report
from petlbench.report.scores import GROUP_MEAN, TASK_MEAN, Scores, gather
from petlbench.report.table import Column
from petlbench.report.view import View
from petlbench.run.record import Record

VIEW = {"title": "Accuracy and cost"}
COLUMNS = ("tasks", "groups", "means")


def build(
    records: Sequence[Record],
    view: View,
    *,
    columns: str = "tasks",
    tests: Mapping[str, Sequence[str]] | None = None,
    means: Sequence[str] = (GROUP_MEAN, TASK_MEAN),
    costs: Sequence[str] = PLAIN,
) -> Report:
    """columns: a column a task, a group, or means only. tests: test set -> [title, group]."""
    scores = gather(records, view, tests)
    table = accuracy.table_of(scores, _shown(scores, columns), means, costs)
    charts = tradeoff.charts(scores, table, means[0]) if means and costs else []
    return Report(view.title, [table], scores.tidy, charts, charts_first=False)


def _shown(scores: Scores, columns: str) -> list[Column]:
    choices = dict(zip(COLUMNS, (scores.tasks, scores.group_columns(), []), strict=True))
    if columns not in choices:
        raise unknown("columns of a table", columns, choices)
    return list(choices[columns])
