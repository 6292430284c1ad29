"""All costs of each method, and its inference speed where it was measured."""

from collections.abc import Sequence

from petlbench.report import expense
from petlbench.report.costs import chosen
from petlbench.report.document import Report
from petlbench.report.scores import gather
from petlbench.report.view import View
from petlbench.run.record import Record

VIEW = {"title": "Efficiency", "suite": "probe", "protocol": "probe"}
COSTS = (
    "parameters_m",
    "delta_kb",
    "saved_mb",
    "peak_mib",
    "reserved_mib",
    "weights_mib",
    "gradients_mib",
    "optimiser_mib",
    "activations_mib",
    "workspace_mib",
    "predicted_mib",
    "image_mib",
    "gflops_forward",
    "gflops_step",
    "train_images_per_s",
)


def build(records: Sequence[Record], view: View, *, costs: Sequence[str] = COSTS) -> Report:
    """costs: keys of `petlbench.report.costs.COSTS`; those that no record has are left out."""
    scores = gather(records, view)
    keys = chosen(costs, scores.finished)
    measured = [key for key in keys if scores.costs[key].notna().any()]
    tables = [expense.costs_of(scores, measured or keys)]
    if expense.has_throughput(scores):
        tables.append(expense.throughput_of(scores, None, "throughput"))
    return Report(view.title, tables, expense.with_speeds(scores))
