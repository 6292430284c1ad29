"""The result of a run in one line."""

from collections.abc import Iterator, Mapping
from typing import Any

from petlbench.run.record import Record


def result_line(record: Record) -> str:
    """The result of a run: its scores, else its costs; or what went wrong."""
    if record["status"] != "finished":
        return f"{record['status']}: {record['reason']}"
    scores = [f"{name} {score['top1']:.1f} %" for name, score in record["scores"].items()]
    parts = scores or list(_costs(record))  # a probe has no scores
    return f"{', '.join(parts)} ({record['provenance']['seconds']:.0f} s)"


def _costs(record: Record) -> Iterator[str]:
    cost: Mapping[str, Any] = record["cost"]
    precision = record["provenance"].get("precision")
    yield f"{cost['parameters']['method'] / 1e6:.3f} M trained"
    if cost["saved_mb"] is not None:
        yield f"{cost['saved_mb']:.0f} MB kept for backward{f' in {precision}' * bool(precision)}"
    if cost["gflops"] is not None:
        yield f"{cost['gflops']['step']:.1f} GFLOP a training image"
    if cost.get("peak_mib"):
        yield f"peak {cost['peak_mib']['allocated']:.0f} MiB"
    if cost.get("predicted_mib"):
        peak = cost["predicted_mib"]["allocated"]
        yield f"predicted peak on a GPU in {cost['predicted_precision']} {peak:.0f} MiB"
    if cost.get("train_images_per_s"):
        yield f"{cost['train_images_per_s']:.0f} training images/s"
