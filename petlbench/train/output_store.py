"""Stored outputs of the frozen prefix, shared by all trainings of a process.

The least recently used ones are dropped when others need their memory.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from petlbench import gpu_memory, main_memory
from petlbench.train.parts import Link
from petlbench.units import GIB

SHARE = 0.25  # of the memory that is free without the stored outputs
CPU = torch.device("cpu")


class Outputs:
    """The output of one link for every image of a split; on the device, or in main memory."""

    def __init__(self, images: int, like: Tensor, place: torch.device) -> None:
        """like: an output (B, ...), of which shape, type and order in memory are taken."""
        # a kernel may depend on the order in memory, as a convolution on channels that come last
        strides = like.stride()
        inner = sorted(range(1, like.ndim), key=lambda dim: -strides[dim])
        self._order = (0, *inner)
        self._back = tuple(self._order.index(dim) for dim in range(like.ndim))
        shape = (images, *(like.shape[dim] for dim in inner))
        self.values = torch.empty(shape, dtype=like.dtype, device=place)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.values.numel() * self.values.element_size()

    def put(self, places: Tensor, outputs: Tensor) -> None:
        """Store outputs (B, ...) of the images with indices `places` (B,)."""
        values = outputs.permute(self._order).to(self.values.device)
        self.values[places.to(values.device)] = values

    def take(self, places: Tensor, device: torch.device) -> Tensor:
        """The outputs of images `places` (B,), (B, ...) on the device."""
        here = self.values.device
        if here.type == device.type:
            return self.values.index_select(0, places.to(here)).permute(self._back)
        # gathered in pinned memory: the copy then runs beside the work of the GPU
        shape = (len(places), *self.values.shape[1:])
        batch = torch.empty(shape, dtype=self.values.dtype, pin_memory=True)
        torch.index_select(self.values, 0, places, out=batch)
        return batch.to(device, non_blocking=True).permute(self._back)


class OutputStore:
    """Outputs by the digest of what they depend on, the least recently used ones first."""

    def __init__(self) -> None:
        self._outputs: dict[str, Outputs] = {}

    def __len__(self) -> int:
        return len(self._outputs)

    def find(self, key: str) -> Outputs | None:
        """Stored outputs, which are now the most recently used ones."""
        outputs = self._outputs.pop(key, None)
        if outputs is not None:
            self._outputs[key] = outputs
        return outputs

    def add(self, outputs: Mapping[str, Outputs]) -> None:
        """Keep outputs that are complete."""
        self._outputs |= outputs

    def make_room(
        self, size: int, place: torch.device, limit: int, keep: Collection[Outputs]
    ) -> bool:
        """Whether `size` more bytes fit below the limit of a place, beside `keep`.

        Drops others until they do, or none.
        """
        kept = sum(outputs.size for outputs in keep if outputs.values.device == place)
        if kept + size > limit:
            return False
        self.shrink(place, limit - size, keep)
        return True

    def shrink(self, place: torch.device, limit: int, keep: Collection[Outputs] = ()) -> None:
        """Drop outputs, except `keep`, until those in a place take at most `limit` bytes."""
        for key, outputs in list(self._outputs.items()):
            if self.held(place) <= limit:
                return
            if outputs.values.device == place and outputs not in keep:
                del self._outputs[key]

    def held(self, place: torch.device) -> int:
        """Bytes stored in a place."""
        return sum(o.size for o in self._outputs.values() if o.values.device == place)

    def clear(self) -> None:
        """Drop all outputs."""
        self._outputs.clear()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep outputs in main memory while the memory of a GPU is measured."""
        moved = [(o, o.values.device) for o in self._outputs.values() if o.values.is_cuda]
        for outputs, _ in moved:
            outputs.values = outputs.values.to(CPU)
        try:
            yield
        finally:
            for outputs, device in moved:
                outputs.values = outputs.values.to(device)


STORE = OutputStore()


def limit_of(place: torch.device, gib: float | None, store: OutputStore) -> int:
    """Bytes that stored outputs may take in a place: `gib`, or a share of what is free (None).

    Never more than is free on a GPU beside what the last measured training step took.
    """
    free = _free(place)
    room = (0 if free is None else free) + store.held(place)
    if gib is None:
        return int(SHARE * room)
    asked = int(gib * GIB)
    # a user who names a size knows a machine that does not tell its own
    return asked if free is None else min(asked, room)


def _free(place: torch.device) -> int | None:
    if place.type != "cuda":
        return main_memory.available()
    step = torch.cuda.max_memory_allocated(place) - torch.cuda.memory_allocated(place)
    return max(0, gpu_memory.available(place) - step)


def keys(links: Sequence[Link], about: object) -> list[str]:
    """What the outputs of each link depend on, as digests: weights, images and `about`.

    The outputs for the examples are part of it: they show whatever else changes a network.
    """
    digest = hashlib.sha256(repr(about).encode())
    found = []
    for link in links:
        for module in link.part.modules or ():
            digest.update(type(module).__qualname__.encode())
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                digest.update(f"{name} {_bytes_of(digest, tensor)}".encode())
        _bytes_of(digest, link.output)
        found.append(digest.hexdigest())
    return found


def _bytes_of(digest: "hashlib._Hash", tensor: Tensor | None) -> object:
    """Add the bytes of a tensor to a digest; returns its type and shape."""
    if tensor is None:
        return None
    flat = tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy()
    digest.update(flat.data)
    return tensor.dtype, tuple(tensor.shape)
