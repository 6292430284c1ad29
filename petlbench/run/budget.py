"""The largest batch of each method that fits in a given GPU memory, from its probe."""

from collections.abc import Collection, Mapping, Sequence

from petlbench.checks import is_number
from petlbench.config.schema import Config
from petlbench.run.record import Record, Store

GIB = 1024  # MiB
STATE = ("weights", "gradients", "optimiser")
PROBED = ("finished", "out_of_memory")  # statuses with a peak; the second has a predicted one


def largest_batch(record: Record, gib: float) -> int:
    """An estimate of the largest batch whose training step fits in `gib`; 0 if one image does not.

    Above the probed batch size, the peak grows by `image_mib` (MiB per image). Below it, the peak
    is a line from the memory without any image to the probed peak. The memory without an image is
    the peak minus that growth, but at least weights, gradients and optimiser state.
    """
    parts, slope = peak(record), record["cost"]["image_mib"]
    top, batch = occupied(parts), record["config"]["train"]["batch_size"]
    left = gib * GIB - top
    if left < 0:
        start = max(sum(parts[key] for key in STATE), top - batch * slope)
        slope = (top - start) / batch
    return max(0, int(batch + left / slope))


def peak(record: Record) -> Mapping[str, float]:
    """The parts of the peak of a training step in MiB: measured, or predicted if not measured."""
    cost = record["cost"]
    parts: Mapping[str, float] = cost.get("peak_mib") or cost["predicted_mib"]
    return parts


def occupied(parts: Mapping[str, float]) -> float:
    """GPU memory of a peak in MiB: reserved memory if it was measured, else allocated memory."""
    # a GPU has to provide all that torch's allocator reserves, not only what tensors occupy
    return parts.get("reserved", parts["allocated"])


def summary(config: Config, store: Store, identities: Collection[str]) -> list[str]:
    """The lines of `table` for the requested methods; none without probe.budget_gib."""
    gib = config.probe.budget_gib if config.probe else None
    if gib is None:
        return []
    probes = [
        record
        for record in store.records()
        # the folder may hold probes that this command did not ask for
        if record["id"] in identities and record["status"] in PROBED and _is_whole(record)
    ]
    return table(probes, gib) if probes else []


def _is_whole(record: Record) -> bool:
    """Whether all was counted that an estimate needs; a cost that cannot be counted is null."""
    cost, train = record["cost"], record["config"]["train"]
    parts = cost.get("peak_mib") or cost.get("predicted_mib") or {}
    figures = [parts.get(key) for key in (*STATE, "allocated")]
    return all(map(is_number, (*figures, cost.get("image_mib"), train.get("batch_size"))))


def table(records: Sequence[Record], gib: float) -> list[str]:
    """Lines with method, backbone, largest batch and probed peak, the largest batch first."""
    rows = sorted(
        ((largest_batch(record, gib), record) for record in records),
        key=lambda row: -row[0],
    )
    width = max(len(title) for title in ("method", *(record["title"] for record in records))) + 2
    lines = [
        f"largest batches in {gib:g} GiB of GPU memory (without CUDA's own memory):",
        f"  {'method':<{width}}{'backbone':<14}{'largest batch':>13}  peak of a training step",
    ]
    for batch, record in rows:
        factors, parts = record["factors"], peak(record)
        probed = record["config"]["train"]["batch_size"]
        lines.append(
            f"  {record['title']:<{width}}{factors['backbone']:<14}{batch or 'none':>13}  "
            f"{occupied(parts) / GIB:.2f} GiB at {probed} {_origin(record)}"
        )
    return lines


def _origin(record: Record) -> str:
    """The precision of a peak, and whether it was measured or predicted."""
    if record["cost"].get("peak_mib"):
        return f"({record['provenance']['precision']}, measured)"
    ending = ", ran out of memory" if record["status"] == "out_of_memory" else ""
    return f"({record['cost']['predicted_precision']}, predicted{ending})"
