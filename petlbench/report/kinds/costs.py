"""Costs of each method, a column a cost: Table 1 of the DTL paper, multi-task inference."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from petlbench.config.job_nodes import PROBE
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.read.scores import gather
from petlbench.report.table import derived, published
from petlbench.report.table.costs import cost_table
from petlbench.run.record import Record

DEFAULTS = {"title": "Costs", "suite": "probe", "protocol": PROBE}


def build(
    records: Sequence[Record],
    spec: ReportSpec,
    *,
    costs: Sequence[str] = ("parameters_m", "memory"),
    savings: Sequence[Mapping[str, str]] = (),
) -> Report:
    """costs: keys of `petlbench.cost.figures.COSTS`, or memory.

    savings: see `petlbench.report.table.derived.Saving`.
    """
    scores = gather(records, replace(spec, published=()))
    table = cost_table(scores, costs)
    derived.add_savings(table, scores, [derived.Saving(**saving) for saving in savings])
    # last: a published row may have a figure in a column of savings only
    for file in spec.published:
        published.add(table, file)
    return Report(spec.title, [table], scores.tidy)
