"""The predicted peak memory of a training step on a GPU, from shapes alone."""

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from petlbench.config.nodes import Train
from petlbench.cost import memory, shapes
from petlbench.cost.autocast import CudaRules
from petlbench.method import Method
from petlbench.train.frozen import frozen_in_16_bit
from petlbench.train.precision import Precision

GRAIN = 512  # bytes: CUDA's allocator rounds up to multiples of it


def peak_mib(
    method: Method, *, precision: str, train: Train, batch: int, size: int
) -> dict[str, float]:
    """`peak_mib` of a training step, split as by `memory.measured`, without `reserved`.

    precision: fp32, or bf16 for both 16-bit formats. The peak is the largest total size of the
    tensors that exist at the same time during a step, each rounded up as by the allocator.
    Autocast follows CUDA's rules. The workspaces of CUDA's libraries are not included.
    """
    formats = Precision(precision, shapes.CPU)
    fake = FakeTensorMode()
    copy = shapes.empty_copy(method, shapes.CPU, fake)
    with fake, CudaRules(), frozen_in_16_bit(copy, formats):
        step = memory.TrainingStep(copy, formats, train, torch.empty(batch, 3, size, size))
        with shapes.masks(copy, batch):
            saved = shapes.saved_bytes(copy, formats, step.images)
        step()  # creates the optimiser's state
        gc.collect()  # else cycles of the first step count as live
        with LiveBytes() as live:
            live.note([*copy.parameters(), *copy.buffers(), step.images, step.labels])
            for state in step.optimiser.state.values():
                live.note(value for value in state.values() if isinstance(value, Tensor))
            live.note(tensor.grad for tensor in copy.parameters() if tensor.grad is not None)
            step()
        parts = memory.split(step.state_bytes(), saved=saved, allocated=live.peak)
    return memory.in_mib(parts)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at the same time; `peak` is their maximum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._counted: set[int] = set()

    def note(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of tensors, each once, until they are freed."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._counted:
                size = -(-storage.nbytes() // GRAIN) * GRAIN
                self._counted.add(key)
                self.live += size
                weakref.finalize(storage, self._freed, key, size)
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int) -> None:
        self._counted.discard(key)  # another storage may get the address
        self.live -= size

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Hook of torch, called for every operation."""
        out = func(*args, **(kwargs or {}))
        self.note(value for value in tree_leaves(out) if isinstance(value, Tensor))
        return out
