"""Which tensors exist at the predicted peak of a training step on a GPU, from shapes alone.

    python -m benchmarks.peak method=dtl backbone=vit_b16 train.memory=min

Prints their number and MiB by shape, type and the operation that made them. The step is that of a
probe: 32 images of noise, in bf16.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from petlbench.config import compose
from petlbench.cost import forecast
from petlbench.cost.memory import TrainingStep
from petlbench.run import build
from petlbench.train.live_bytes import LiveBytes
from petlbench.units import MIB

STEP = ("dataset=probe", "backbone.pretrained=false", "train.precision=bf16")
BEFORE = "before the step"  # weights, images, gradients and the optimiser's state
SHOWN = 1.0  # MiB; smaller kinds are shown as one
Kind = tuple[str, tuple[int, ...], str]  # operation, shape, type


class LiveTensors(LiveBytes):
    """Knows which tensors exist at the peak.

    at_peak: their bytes by their kind. operation: the one that reaches the peak.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at_peak: Mapping[Kind, list[int]] = {}
        self.operation = BEFORE
        self._running = BEFORE
        self._kinds: dict[int, Kind] = {}

    def note(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of tensors; the first tensor of a storage says what it is."""
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            if key not in self.sizes:
                self._kinds[key] = (self._running, tuple(tensor.shape), str(tensor.dtype))
            super().note([tensor])
            if self.live == self.peak:
                self._look()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Hook of torch, called for every operation."""
        self._running = str(func.overloadpacket.__name__)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _look(self) -> None:
        kinds = defaultdict(list)
        for key, size in self.sizes.items():
            kinds[self._kinds[key]].append(size)
        self.at_peak, self.operation = kinds, self._running


def at_peak(overrides: Iterable[str]) -> LiveTensors:
    """The tensors at the peak of a step, which is not the first one."""
    config = compose.single([*STEP, *overrides])
    method = build.on_meta(config)
    with forecast.on_shapes(method, config.train.precision) as (copy, formats):
        images = torch.empty(config.train.batch_size, 3, config.input.size, config.input.size)
        step = TrainingStep(copy, formats, config.train, images)
        step()  # creates the optimiser's state
        return forecast.watched(step, LiveTensors())


def lines(live: LiveTensors) -> Iterator[str]:
    """The peak, and the kinds that exist at it, the largest first."""
    yield f"{live.peak / MIB:.1f} MiB, reached in {live.operation}"
    mib = {kind: sum(sizes) / MIB for kind, sizes in live.at_peak.items()}
    shown = sorted((kind for kind in mib if mib[kind] >= SHOWN), key=lambda kind: -mib[kind])
    for kind in shown:
        operation, shape, dtype = kind
        size = " x ".join(map(str, shape))
        yield (
            f"{mib[kind]:8.1f}  {len(live.at_peak[kind])} of {size}, "
            f"{dtype.removeprefix('torch.')}: {operation}"
        )
    yield f"{sum(mib.values()) - sum(mib[kind] for kind in shown):8.1f}  smaller ones"


def main() -> None:
    """Print the lines."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        return
    print(*lines(at_peak(sys.argv[1:])), sep="\n")


if __name__ == "__main__":
    main()
