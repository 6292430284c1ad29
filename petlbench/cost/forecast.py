"""The peak of memory to be expected of a training step on a GPU, from shapes alone."""

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from petlbench.config.schema import Train
from petlbench.cost import memory, shapes
from petlbench.cost.autocast import CudaRules
from petlbench.method import Method
from petlbench.train.precision import Precision

GRAIN = 512  # bytes: CUDA's allocator gives out multiples of it


def peak_mib(
    method: Method, *, precision: str, train: Train, batch: int, size: int
) -> dict[str, float]:
    """`peak_mib` of a training step as `memory.measured` would split it, but for `reserved`.

    precision: fp32, or bf16 (which stands for both formats of 16 bits). It is the largest sum of
    the tensors that live at once during a step, each rounded up to what the allocator gives.
    Autocast follows CUDA's rules. The libraries' own workspaces are not in it.
    """
    formats = Precision(precision, shapes.CPU)
    fake = FakeTensorMode()
    copied = shapes.restated(method, shapes.CPU, fake)
    with fake, CudaRules():
        step = memory.TrainingStep(copied, formats, train, torch.empty(batch, 3, size, size))
        with shapes.masks(copied, batch):
            saved = shapes.saved_bytes(copied, formats, step.images)
        step()  # makes the optimiser's state
        gc.collect()
        with LiveBytes() as live:
            live.note([*copied.parameters(), *copied.buffers(), step.images, step.labels])
            for state in step.optimiser.state.values():
                live.note(value for value in state.values() if isinstance(value, Tensor))
            live.note(tensor.grad for tensor in copied.parameters() if tensor.grad is not None)
            step()
    parts = memory.split(step.state_bytes(), saved=saved, allocated=live.peak)
    return memory.in_mib(parts)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that live at once; `peak` is the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def note(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of tensors, each once, until they are freed."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                size = -(-storage.nbytes() // GRAIN) * GRAIN
                self._known.add(key)
                self.live += size
                weakref.finalize(storage, self._freed, key, size)
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Torch's hook: called for every operation."""
        out = func(*args, **(kwargs or {}))
        self.note(value for value in tree_leaves(out) if isinstance(value, Tensor))
        return out
