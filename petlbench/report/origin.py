"""Where a figure comes from, in words: what the page shows beside a cell or a point."""

from collections.abc import Iterable, Sequence
from typing import Any

from petlbench.run.record import Record


def weights(record: Record) -> str | None:
    """The tag of the pre-trained weights and the start of their hash."""
    checkpoint = record["provenance"].get("checkpoint")
    if not checkpoint:
        return None
    return f"{checkpoint.get('tag')} {(checkpoint.get('sha256') or 'random')[:12]}"


def of_row(label: str, records: Sequence[Record]) -> str:
    """The runs behind a row: how many, on what, with which versions and values."""
    versions = [record["provenance"].get("versions") or {} for record in records]
    config = [record["config"] for record in records]
    told = {
        "runs": str(len(records)),
        "seeds": listed(record["factors"]["seed"] for record in records),
        "backbone": listed(record["factors"]["backbone"] for record in records),
        "weights": listed(map(weights, records)),
        "device": listed(record["provenance"].get("device") for record in records),
        "precision": listed(record["provenance"].get("precision") for record in records),
        "torch": listed(version.get("torch") for version in versions),
        "timm": listed(version.get("timm") for version in versions),
        "commit": listed(version.get("commit") for version in versions),
        "epochs": listed(values["train"].get("epochs") for values in config),
        "lr": listed(values["train"].get("lr") for values in config),
        "protocol": listed(record["protocol"] for record in records),
    }
    return "\n".join([label, *(f"{key}: {value}" for key, value in told.items() if value)])


def of_cell(label: str, title: str, runs: Iterable[tuple[Record, float]]) -> str:
    """The single runs behind a mean: seed, draw, score, identity."""
    lines = [
        f"seed {record['factors']['seed']}"
        + (f" draw {record['factors']['draw']}" if record["factors"]["draw"] else "")
        + f": {top1:.2f}  (run {record['id']})"
        for record, top1 in runs
    ]
    return "\n".join([f"{label} on {title}", *lines])


def listed(values: Iterable[Any], comma: str = ", ") -> str:
    """Each value once, in order, without what is missing."""
    return comma.join(str(value) for value in dict.fromkeys(values) if value is not None)
