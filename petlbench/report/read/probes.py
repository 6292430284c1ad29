"""The probes of the methods of a report: how much GPU memory a training step needs."""

from collections.abc import Iterable, Sequence

from petlbench.config.job_nodes import PROBE
from petlbench.report.read.fields import Labelled, config_value, differences
from petlbench.run.budget import PROBED, is_complete, largest_batches
from petlbench.run.record import Record

SAME = ("method", "backbone")  # nodes of the configuration that memory depends on
MODE = "train.memory"
STEP = (  # and values
    *("input.size", "train.batch_size", "train.accumulate"),
    *(MODE, "train.optimizer", "train.precision"),
)
VALUES = {"backbone.pretrained", "backbone.checkpoint"}  # of weights, which memory is not


def probes(labelled: Iterable[Labelled], records: Sequence[Record]) -> dict[str, Record]:
    """Row -> a probe of the same method, backbone, image size and step of training.

    A probe whose memory could not be counted is none.
    """
    probed = [
        record
        for record in records
        if record["protocol"] == PROBE and record["status"] in PROBED
        if is_complete(record["cost"])
    ]
    found: dict[str, Record] = {}
    for row, record in labelled:
        for probe in probed:
            if not differences(record, probe, SAME).keys() - VALUES and all(
                config_value(record, key) == config_value(probe, key) for key in STEP
            ):
                found.setdefault(row, probe)
    return found


def batch_that_fits(probe: Record, gib: float) -> float:
    """The largest batch in `gib` of GPU memory in the probe's memory mode; NaN if unknown."""
    mode = str(config_value(probe, MODE))
    return float(largest_batches(probe, gib).get(mode, float("nan")))
