"""The figures of a record's costs: title, dotted path, unit and direction of each."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Cost:
    """A figure of record["cost"] by its dotted path, multiplied by `scale`.

    below: path of another figure; the cost is then how much less it is than that, in percent.
    timed: a time or a rate, which compares only with one of the same device.
    """

    title: str
    path: str
    digits: int
    best: Literal["high", "low"] | None
    scale: float = 1.0
    below: str | None = None
    timed: bool = False


COSTS = {
    "parameters_m": Cost("parameters w/o head (M)", "parameters.method", 3, "low", 1e-6),
    "units": Cost("structural units", "units", 0, None),
    "delta_kb": Cost("delta (kB)", "delta_bytes", 0, "low", 1e-3),
    # torch.cuda.max_memory_allocated, which the DTL scripts print; reserved memory is more
    "peak_mib": Cost("peak memory (MiB)", "peak_mib.allocated", 0, "low"),
    "reserved_mib": Cost("reserved memory (MiB)", "peak_mib.reserved", 0, "low"),
    "predicted_mib": Cost("predicted peak (MiB)", "predicted_mib.allocated", 0, "low"),
    "image_mib": Cost("memory an image (MiB)", "image_mib", 1, "low"),
    **{
        f"{part}_mib": Cost(f"{part} (MiB)", f"peak_mib.{part}", 0, "low")
        for part in ("weights", "gradients", "optimiser", "activations", "workspace")
    },
    "saved_mb": Cost("saved for backward (MB)", "saved_mb", 1, "low"),
    **{
        f"{mode}_{key}": Cost(f"{mode}: {title}", f"memory_modes.{mode}.{path}", digits, "low")
        for key, title, path, digits in (
            ("saved_mb", "saved for backward (MB)", "saved_mb", 1),
            ("peak_mib", "peak memory (MiB)", "peak_mib.allocated", 0),
            ("predicted_mib", "predicted peak (MiB)", "predicted_mib.allocated", 0),
        )
        for mode in ("lean", "min")
    },
    "gflops_forward": Cost("forward (GFLOP/image)", "gflops.forward", 2, "low"),
    "gflops_step": Cost("training step (GFLOP/image)", "gflops.step", 2, "low"),
    "train_images_per_s": Cost("train images/s", "train_images_per_s", 0, "high", timed=True),
    "test_images_per_s": Cost("test images/s", "test_images_per_s", 0, "high", timed=True),
    "train_s": Cost("train seconds", "train_s", 1, "low", timed=True),
    "tasks": Cost("tasks", "multitask.tasks", 0, None),
    "shared_blocks": Cost("shared blocks", "multitask.shared_blocks", 0, None),
    "blocks": Cost("blocks", "multitask.blocks", 0, None),
    "shared_gflops": Cost("shared (GFLOP)", "multitask.gflops.shared", 1, "low"),
    "batch_gflops": Cost("full passes (GFLOP)", "multitask.gflops.batch", 1, "low"),
    "saved_percent": Cost("FLOPs saved (%)", "multitask.saved_percent", 1, "high"),
    "shared_s": Cost("shared (s)", "multitask.seconds.shared", 4, "low", timed=True),
    "batch_s": Cost(
        "one batch of full passes (s)", "multitask.seconds.batch", 4, "low", timed=True
    ),
    "sequential_s": Cost(
        "full passes in turn (s)", "multitask.seconds.sequential", 4, "low", timed=True
    ),
    **{
        f"{way}_saved_percent": Cost(
            f"time saved against {title} (%)",
            "multitask.seconds.shared",
            1,
            "high",
            below=f"multitask.seconds.{way}",
        )
        for way, title in (("batch", "one batch"), ("sequential", "passes in turn"))
    },
}
