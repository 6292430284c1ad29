"""Images per second in inference at several batch sizes: Table 6 of the DTL paper."""

from collections.abc import Sequence

from petlbench.report import expense
from petlbench.report.document import Report
from petlbench.report.scores import gather
from petlbench.report.view import View
from petlbench.run.record import Record

VIEW = {"title": "Inference throughput", "suite": "probe", "protocol": "probe"}


def build(
    records: Sequence[Record], view: View, *, batches: Sequence[int] | None = None
) -> Report:
    """batches: the batch sizes to show; default all that were measured."""
    scores = gather(records, view)
    table = expense.throughput_of(scores, batches)
    return Report(view.title, [table], expense.with_speeds(scores))
