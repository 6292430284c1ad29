"""What fits in so much GPU memory: the largest batch of each method, from its probe."""

from collections.abc import Collection, Mapping, Sequence

from petlbench.config.schema import Config
from petlbench.run.record import Record, Store

GIB = 1024  # MiB
KEPT = ("weights", "gradients", "optimiser")
PROBED = ("finished", "out_of_memory")  # the second has a predicted peak


def largest_batch(record: Record, gib: float) -> int:
    """The largest batch whose training step fits, estimated; 0 where not even one image does.

    From the probed batch size on, the peak grows by the predicted MiB an image; below it, it lies
    on the line from what no batch changes: that growth taken back, or weights, gradients and
    optimiser state where these are more.
    """
    parts, slope = peak(record), record["cost"]["image_mib"]
    top, batch = occupied(parts), record["config"]["train"]["batch_size"]
    left = gib * GIB - top
    if left < 0:
        start = max(sum(parts[key] for key in KEPT), top - batch * slope)
        slope = (top - start) / batch
    return max(0, int(batch + left / slope))


def peak(record: Record) -> Mapping[str, float]:
    """The peak of a training step in parts (MiB): measured, or else predicted."""
    cost = record["cost"]
    found: Mapping[str, float] = cost.get("peak_mib") or cost["predicted_mib"]
    return found


def occupied(parts: Mapping[str, float]) -> float:
    """What a peak takes of the card (MiB): what was reserved, where that was measured."""
    return parts.get("reserved", parts["allocated"])


def summary(config: Config, store: Store, identities: Collection[str]) -> list[str]:
    """With probe.budget_gib, a table of the requested methods, the largest batch first."""
    gib = config.probe.budget_gib if config.probe else None
    if gib is None:
        return []
    found = [
        record
        for record in store.records()
        if record["id"] in identities
        and record["status"] in PROBED
        and record["cost"].get("predicted_mib")
    ]
    return table(found, gib) if found else []


def table(records: Sequence[Record], gib: float) -> list[str]:
    """Lines: method, backbone, largest batch, the peak that was probed and how."""
    rows = sorted(
        ((largest_batch(record, gib), record) for record in records),
        key=lambda row: -row[0],
    )
    width = max(len(title) for title in ("method", *(record["title"] for record in records))) + 2
    lines = [
        f"what {gib:g} GiB of GPU memory take (CUDA's own comes on top):",
        f"  {'method':<{width}}{'backbone':<14}{'largest batch':>13}  peak of a training step",
    ]
    for batch, record in rows:
        factors, parts = record["factors"], peak(record)
        probed = record["config"]["train"]["batch_size"]
        lines.append(
            f"  {record['title']:<{width}}{factors['backbone']:<14}{batch or 'none':>13}  "
            f"{occupied(parts) / GIB:.2f} GiB at {probed} {_told(record)}"
        )
    return lines


def _told(record: Record) -> str:
    """How the peak was found."""
    if record["cost"].get("peak_mib"):
        return f"({record['provenance']['precision']}, measured)"
    ended = ", ran out of memory" if record["status"] == "out_of_memory" else ""
    return f"({record['cost']['predicted_precision']}, predicted{ended})"
