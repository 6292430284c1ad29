"""All costs of each method, and its inference speed if it was measured."""

from collections.abc import Sequence

from petlbench.config.job_nodes import PROBE
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.read.costs import resolved
from petlbench.report.read.scores import gather
from petlbench.report.table.costs import cost_table
from petlbench.report.table.throughput import (
    has_throughput,
    throughput_table,
    tidy_with_timings,
)
from petlbench.run.record import Record

DEFAULTS = {"title": "Efficiency", "suite": "probe", "protocol": PROBE}
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
    *(
        f"{mode}_{key}"
        for key in ("saved_mb", "peak_mib", "predicted_mib")
        for mode in ("lean", "min")
    ),
    "gflops_forward",
    "gflops_step",
    "train_images_per_s",
)


def build(records: Sequence[Record], spec: ReportSpec, *, costs: Sequence[str] = COSTS) -> Report:
    """costs: keys of `petlbench.cost.figures.COSTS`; costs without a record are left out."""
    scores = gather(records, spec)
    keys = resolved(costs, scores.finished)
    measured = [key for key in keys if scores.costs[key].notna().any()]
    # without any figure, cost_table raises an error that names the keys
    tables = [cost_table(scores, measured or keys)]
    if has_throughput(scores):
        tables.append(throughput_table(scores, None, "throughput"))  # a second table needs a name
    return Report(spec.title, tables, tidy_with_timings(scores))
