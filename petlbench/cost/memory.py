"""Memory of a training step: measured on a GPU, or predicted on shapes."""

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from petlbench.cost import shapes
from petlbench.interface import Method
from petlbench.train.precision import Precision
from petlbench.train.step import build_optimiser, training_step

MIB = 2**20
GRAIN = 512  # bytes: CUDA's allocator gives out multiples of it


class TrainingStep:
    """One training step on a batch of noise, to be called again and again."""

    def __init__(
        self,
        method: Method,
        device: torch.device,
        precision: Precision,
        settings: Mapping[str, Any],
        size: int,
        classes: int,
    ) -> None:
        self.method = method.train()
        self.precision = precision
        self.optimiser = build_optimiser(method, settings)
        self.labels = torch.arange(settings["batch_size"], device=device) % classes
        self.images = torch.randn(len(self.labels), 3, size, size, device=device)

    def __call__(self) -> None:
        training_step(self.method, self.optimiser, self.precision, self.images, self.labels)

    def state_bytes(self) -> dict[str, int]:
        """What belongs to the network after a step: weights, gradients and optimiser state."""
        states = (value for state in self.optimiser.state.values() for value in state.values())
        own = list(self.method.parameters())
        return {
            "weights": _bytes([*own, *self.method.buffers()]),
            "gradients": _bytes(tensor.grad for tensor in own if tensor.grad is not None),
            "optimiser": _bytes(value for value in states if isinstance(value, Tensor)),
        }


def measured(step: TrainingStep, *, warmup: int, steps: int) -> dict[str, Any]:
    """On CUDA: `saved_mb`, and `peak_mib` of `steps` training steps after `warmup` others."""
    for _ in range(warmup):
        step()
    step.optimiser.zero_grad(set_to_none=True)
    saved = shapes.saved_bytes(step.method, step.precision, step.images)
    free_what_is_left()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    parts = split(step.state_bytes(), saved=saved, allocated=allocated) | {"reserved": reserved}
    return {"saved_mb": saved / 1e6, "peak_mib": _mib(parts)}


def predicted(
    method: Method, *, precision: str, settings: Mapping[str, Any], size: int, classes: int
) -> dict[str, float]:
    """What `peak_mib` of a training step is to be expected on a GPU (MiB), counted on shapes.

    The largest sum of the tensors that live at once during a step. The libraries' own workspaces
    are not in it, and autocast follows the CPU's rules (16 bits: bf16).
    """
    formats = Precision("fp32" if precision == "fp32" else "bf16", shapes.CPU)
    fake = FakeTensorMode()
    copied = shapes.restated(method, shapes.CPU, fake)
    with fake:
        step = TrainingStep(copied, shapes.CPU, formats, settings, size, classes)
        shapes.draw(copied, len(step.images))
        saved = shapes.saved_bytes(copied, formats, step.images)
        step()
        gc.collect()
        with LiveBytes([*copied.parameters(), *copied.buffers(), step.images]) as live:
            for state in step.optimiser.state.values():
                live.note(value for value in state.values() if isinstance(value, Tensor))
            live.note(tensor.grad for tensor in copied.parameters() if tensor.grad is not None)
            step()
    return _mib(split(step.state_bytes(), saved=saved, allocated=live.peak))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that live at once; `peak` is the most there were."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()
        self.note(tensors)

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


def split(state: Mapping[str, int], *, saved: int, allocated: int) -> dict[str, int]:
    """The peak of allocated memory in parts that add up to it.

    state: weights, gradients and optimiser state. activations: what autograd keeps; gradients
    come while it goes, so where these are large it is what the peak leaves for them. workspace:
    the rest, such as outputs on their way, 16-bit copies of weights, the batch, and the libraries'
    own.
    """
    left = allocated - sum(state.values())
    activations = min(saved, left)
    rest = {"activations": activations, "workspace": left - activations}
    return {**state, **rest, "allocated": allocated}


def free_what_is_left() -> None:
    """Free what earlier work in this process left behind, in cycles and in torch's cache."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


@contextmanager
def unchanged(method: nn.Module, device: torch.device) -> Iterator[None]:
    """Give back trainable tensors, training mode and random state as they were, no gradients."""
    trained = [tensor for tensor in method.parameters() if tensor.requires_grad]
    kept = [tensor.detach().cpu().clone() for tensor in trained]
    mode = method.training
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
    with torch.no_grad():
        for tensor, value in zip(trained, kept, strict=True):
            tensor.copy_(value)
    method.zero_grad(set_to_none=True)
    method.train(mode)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _mib(parts: Mapping[str, int]) -> dict[str, float]:
    return {key: size / MIB for key, size in parts.items()}
