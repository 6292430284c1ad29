"""Images per second in inference at several batch sizes: Table 6 of the DTL paper."""

from collections.abc import Sequence

from petlbench.config.job_nodes import PROBE
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.read.scores import gather
from petlbench.report.table.throughput import throughput_table, tidy_with_timings
from petlbench.run.record import Record

DEFAULTS = {"title": "Inference throughput", "suite": "probe", "protocol": PROBE}


def build(
    records: Sequence[Record], spec: ReportSpec, *, batches: Sequence[int] | None = None
) -> Report:
    """batches: the batch sizes to show; default: all."""
    scores = gather(records, spec)
    table = throughput_table(scores, batches)
    return Report(spec.title, [table], tidy_with_timings(scores))
