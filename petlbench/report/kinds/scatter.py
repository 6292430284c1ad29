"""Accuracy against parameters and against memory: Figure 1 of the DTL paper."""

from collections.abc import Sequence

from petlbench.report.draw import tradeoff
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.read.means import GROUP_MEAN, TASK_MEAN
from petlbench.report.read.scores import gather
from petlbench.report.table.accuracy import accuracy_table
from petlbench.run.record import Record

DEFAULTS = {"title": "Accuracy against parameters and memory"}


def build(records: Sequence[Record], spec: ReportSpec, *, mean: str = GROUP_MEAN) -> Report:
    """mean: the mean on the vertical axis."""
    scores = gather(records, spec)
    # each once: `mean` may be one of the two
    means = list(dict.fromkeys([mean, GROUP_MEAN, TASK_MEAN]))
    table = accuracy_table(scores, [], means, ("parameters_m", "memory"))
    return Report(spec.title, [table], scores.tidy, tradeoff.charts(scores, table, mean))
