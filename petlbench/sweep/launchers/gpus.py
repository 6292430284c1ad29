"""The GPUs of this machine, and what runs want of GPUs."""

import os
from collections.abc import Sequence

from petlbench.checks import positive
from petlbench.errors import UserError
from petlbench.sweep.plan import Planned
from petlbench.units import MIB

VISIBLE = "CUDA_VISIBLE_DEVICES"


def share(value: object) -> float:
    """hydra.launcher.gpus_per_run as the part of a GPU that a run takes."""
    part = positive("hydra.launcher.gpus_per_run", value)
    if part > 1:
        raise UserError(f"hydra.launcher.gpus_per_run is {part:g}; a run uses one GPU at most")
    return part


def wanted(runs: Sequence[Planned]) -> bool:
    """Whether runs use GPUs where there are some. Raises UserError for a GPU that one names."""
    devices = {run.config.device for run in runs}
    if named := sorted(name for name in devices if name.startswith("cuda:")):
        raise UserError(
            f"device={named[0]} names one GPU and the launcher chooses them; leave it out, or set "
            f"{VISIBLE}"
        )
    return devices != {"cpu"}


def visible() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get(VISIBLE)
    names = [name.strip() for name in named.split(",")] if named else map(str, range(count))
    return list(names)[:count]


def memory_mib() -> float:
    """The memory of the smallest GPU that this process may use."""
    import torch

    sizes = [
        torch.cuda.get_device_properties(number).total_memory
        for number in range(torch.cuda.device_count())
    ]
    return min(sizes) / MIB
