"""Costs of each method, a column a cost: Table 1 of the DTL paper, multi-task inference."""

from collections.abc import Sequence

from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.read.scores import gather
from petlbench.report.table.costs import cost_table
from petlbench.run.record import Record

DEFAULTS = {"title": "Costs", "suite": "probe", "protocol": "probe"}


def build(
    records: Sequence[Record],
    spec: ReportSpec,
    *,
    costs: Sequence[str] = ("parameters_m", "memory"),
) -> Report:
    """costs: keys of `petlbench.cost.figures.COSTS`, or memory."""
    scores = gather(records, spec)
    return Report(spec.title, [cost_table(scores, costs)], scores.tidy)
