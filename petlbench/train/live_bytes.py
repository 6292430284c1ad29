"""The bytes of the tensors that exist at the same time."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GRAIN = 512  # bytes: CUDA's allocator rounds up to multiples of it


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at the same time; `peak` is their maximum.

    sizes: bytes of the living storages, by an identity.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.sizes: dict[int, int] = {}

    def note(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of tensors, each once, until they are freed."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self.sizes:
                size = -(-storage.nbytes() // GRAIN) * GRAIN
                self.sizes[key] = size
                self.live += size
                weakref.finalize(storage, self._freed, key)
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int) -> None:
        self.live -= self.sizes.pop(key)  # another storage may get the address

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
