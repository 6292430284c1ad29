"""Costs of each method, a column a cost: Table 1 of the DTL paper, multi-task inference."""

from collections.abc import Sequence

from petlbench.report import expense
from petlbench.report.document import Report
from petlbench.report.scores import gather
from petlbench.report.view import View
from petlbench.run.record import Record

VIEW = {"title": "Costs", "suite": "probe", "protocol": "probe"}


def build(
    records: Sequence[Record], view: View, *, costs: Sequence[str] = ("parameters_m", "memory")
) -> Report:
    """costs: keys of `petlbench.report.costs.COSTS`, or memory."""
    scores = gather(records, view)
    return Report(view.title, [expense.costs_of(scores, costs)], scores.tidy)
