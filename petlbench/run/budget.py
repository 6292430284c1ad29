"""The largest batch of each method that fits in a given GPU memory, from its probe."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from petlbench.checks import is_number
from petlbench.config.nodes import MEMORY_MODES
from petlbench.config.schema import Config
from petlbench.run.record import Record, Store
from petlbench.units import MIB_OF_GIB

STATE = ("weights", "gradients", "optimiser")
PROBED = ("finished", "out_of_memory")  # statuses with a peak; the second has a predicted one


def _largest(cost: Mapping[str, Any], batch: int, gib: float) -> int:
    """An estimate of the largest batch whose training step fits in `gib`; 0 if one image does not.

    Above the probed batch size, the peak grows by `image_mib` (MiB per image). Below it, the peak
    is a line from the memory without any image to the probed peak. The memory without an image is
    the peak minus that growth, but at least weights, gradients and optimiser state.
    cost: of a record, or of one of its memory modes; batch: of the probe.
    """
    parts, slope = peak(cost), cost["image_mib"]
    top = occupied(parts)
    left = gib * MIB_OF_GIB - top
    if left < 0:
        start = max(sum(parts[key] for key in STATE), top - batch * slope)
        slope = (top - start) / batch
    return max(0, int(batch + left / slope))


def peak(cost: Mapping[str, Any]) -> Mapping[str, float]:
    """The parts of the peak of a training step in MiB: measured, or predicted if not measured."""
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
        if record["id"] in identities
        and record["status"] in PROBED
        and is_complete(record["cost"])
        and is_number(record["config"]["train"].get("batch_size"))
    ]
    return table(probes, gib) if probes else []


def is_complete(cost: Mapping[str, Any]) -> bool:
    """Whether all was counted that an estimate needs; a cost that cannot be counted is null."""
    parts = cost.get("peak_mib") or cost.get("predicted_mib") or {}
    figures = [parts.get(key) for key in (*STATE, "allocated")]
    return all(map(is_number, (*figures, cost.get("image_mib"))))


def table(records: Sequence[Record], gib: float) -> list[str]:
    """A line for each probe: largest batches by memory mode, and the peak; the largest first."""
    rows = sorted(
        ((largest_batches(record, gib), record) for record in records),
        key=lambda row: -max(row[0].values()),
    )
    width = max(len(title) for title in ("method", *(record["title"] for record in records))) + 2
    modes = "".join(f"{mode:>8}" for mode in MEMORY_MODES)
    return [
        f"largest batches in {gib:g} GiB of GPU memory (without CUDA's own memory), by mode:",
        f"  {'method':<{width}}{'backbone':<14}{modes}  peak of a training step",
        *(f"  {record['title']:<{width}}{_line(record, batches)}" for batches, record in rows),
    ]


def largest_batches(record: Record, gib: float) -> dict[str, int]:
    """The largest batch in each memory mode that the record knows."""
    train, modes = record["config"]["train"], record["cost"].get("memory_modes") or {}
    # an older probe has one mode only
    known = modes | {_mode(record): record["cost"]}
    return {
        mode: _largest(known[mode], train["batch_size"], gib)
        for mode in MEMORY_MODES
        if is_complete(known.get(mode) or {})
    }


def _line(record: Record, batches: Mapping[str, int]) -> str:
    """The cells after the method, and the first mode that the probed batch needs to fit."""
    probed, own = record["config"]["train"]["batch_size"], _mode(record)
    cells = "".join(f"{_cell(batches.get(mode)):>8}" for mode in MEMORY_MODES)
    line = f"{record['factors']['backbone']:<14}{cells}  "
    line += f"{occupied(peak(record['cost'])) / MIB_OF_GIB:.2f} GiB at {probed} {_origin(record)}"
    fitting = [mode for mode, batch in batches.items() if batch >= probed]
    if batches[own] < probed and fitting:
        line += f"; {probed} images fit with train.memory={fitting[0]}"
    return line


def _cell(batch: int | None) -> str:
    return "-" if batch is None else str(batch or "none")


def _mode(record: Record) -> str:
    """The memory mode of a probe; without the key, it was the first one."""
    return str(record["config"]["train"].get("memory", MEMORY_MODES[0]))


def _origin(record: Record) -> str:
    """The precision of a peak, and whether it was measured or predicted."""
    if record["cost"].get("peak_mib"):
        return f"({record['provenance']['precision']}, measured)"
    ending = ", ran out of memory" if record["status"] == "out_of_memory" else ""
    return f"({record['cost']['predicted_precision']}, predicted{ending})"
