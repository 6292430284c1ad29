"""The mean accuracies of a W&B group, as one run beside the runs of its records."""

import hashlib
from collections.abc import Sequence

import pandas as pd

from petlbench.errors import UserError
from petlbench.report import overview
from petlbench.run.outbox import Outbox
from petlbench.run.record import Record

JOB_TYPE = "means"  # of the W&B run


def send(outbox: Outbox, group: str, records: Sequence[Record]) -> str:
    """Send the means unless W&B has them; what was done, in a few words."""
    try:
        frame = overview.means(records)
    except UserError as error:  # of runs with different settings there is no mean
        return f"none, {error}"
    if not len(frame):
        return "none, no run of it has finished with a score"
    identifier = f"{JOB_TYPE}-{_hash(group)}"
    digest = _hash(frame.to_csv())
    if outbox.digest(identifier) == digest:
        return "there already"
    names = {
        "id": identifier,
        "name": f"means of {group}",
        "group": group,
        "job_type": JOB_TYPE,
    }
    # null, because W&B shows NaN as a text
    rows = frame.astype(object).where(frame.notna(), None)
    table = {"columns": list(frame), "data": rows.to_numpy().tolist()}
    outbox.send_table(names, table, {**_averages(frame), "digest": digest})
    return "sent"


def _averages(frame: pd.DataFrame) -> dict[str, float]:
    """The means over tasks and groups, by suite/backbone/protocol/method/mean."""
    averages = frame.set_index(list(overview.SETTING))[list(overview.AVERAGES)].stack()
    return {"/".join(key): float(value) for key, value in averages.dropna().items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
