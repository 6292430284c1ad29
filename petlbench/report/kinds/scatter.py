"""Accuracy against parameters and against memory: Figure 1 of the DTL paper."""

from collections.abc import Sequence

from petlbench.report import accuracy, tradeoff
from petlbench.report.document import Report
from petlbench.report.scores import GROUP_MEAN, TASK_MEAN, gather
from petlbench.report.view import View
from petlbench.run.record import Record

VIEW = {"title": "Accuracy against parameters and memory"}


def build(records: Sequence[Record], view: View, *, mean: str = GROUP_MEAN) -> Report:
    """mean: which mean stands on the vertical axis."""
    scores = gather(records, view)
    means = list(dict.fromkeys([mean, GROUP_MEAN, TASK_MEAN]))
    table = accuracy.table_of(scores, [], means, ("parameters_m", "memory"))
    return Report(view.title, [table], scores.tidy, tradeoff.charts(scores, table, mean))
