"""Peak memory of a training step on a GPU, and its parts."""

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from petlbench.config.nodes import Train
from petlbench.cost import shapes
from petlbench.delta import trained
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.train.forward import TrainingForward
from petlbench.train.optim import build_optimiser
from petlbench.train.precision import Precision
from petlbench.train.step import training_step
from petlbench.units import MIB

NO_STEP = "the method makes no training step"


class TrainingStep:
    """A training step on one batch of noise (B, 3, H, W); each call repeats it.

    Its memory mode and whether it is compiled are those of `train`. Raises ValueError if the
    method makes no steps, UserError if it has nothing to train in them.
    """

    def __init__(self, method: Method, precision: Precision, train: Train, images: Tensor) -> None:
        if not method.takes_steps:
            raise ValueError(NO_STEP)
        if not trained(method):
            kind = type(method).__name__
            raise UserError(
                f"{kind} has no tensor to train; set takes_steps = False in {kind} if its fit "
                "makes no training steps"
            )
        self.method = method.train()
        self.precision = precision
        self.optimiser = build_optimiser(method, train)
        self.change(train, images)

    def change(self, train: Train, images: Tensor) -> None:
        """Go on with other images, or in another memory mode; the optimiser keeps its state."""
        self.memory = train.memory
        self.forward = TrainingForward(self.method, train)
        self.images = images
        # one class for all images: labels change no cost
        self.labels = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def __call__(self) -> None:
        training_step(
            self.method,
            self.optimiser,
            self.precision,
            self.images,
            self.labels,
            forward=self.forward,
        )

    def end(self) -> None:
        """Drop the gradients, and the CUDA graphs in whose memory they may lie."""
        self.optimiser.zero_grad(set_to_none=True)
        self.forward.end()

    def saved_bytes(self) -> int:
        """Bytes that a step keeps for backward, compiled or not."""
        with shapes.masks(self.method, len(self.images)):
            return shapes.saved_bytes(self.method, self.precision, self.images, self.memory)

    def state_bytes(self) -> dict[str, int]:
        """Bytes of weights, gradients and optimiser state after a step."""
        states = (value for state in self.optimiser.state.values() for value in state.values())
        own = list(self.method.parameters())
        return {
            "weights": _bytes([*own, *self.method.buffers()]),
            "gradients": _bytes(tensor.grad for tensor in own if tensor.grad is not None),
            "optimiser": _bytes(value for value in states if isinstance(value, Tensor)),
        }


def measured(step: TrainingStep, *, warmup: int, steps: int) -> dict[str, Any]:
    """`saved_mb`, and `peak_mib` of `steps` training steps after `warmup` others; on CUDA only.

    warmup: at least 1, because the first step creates the optimiser's state.
    """
    for _ in range(warmup):
        step()
    step.optimiser.zero_grad(set_to_none=True)
    saved = step.saved_bytes()
    device = step.images.device
    free_unused(device)
    torch.cuda.reset_peak_memory_stats(device)  # to what is allocated now
    for _ in range(steps):
        step()
    torch.cuda.synchronize(device)
    allocated = torch.cuda.max_memory_allocated(device)
    reserved = torch.cuda.max_memory_reserved(device)
    parts = split(step.state_bytes(), saved=saved, allocated=allocated) | {"reserved": reserved}
    return {"saved_mb": saved / 1e6, "peak_mib": in_mib(parts)}


def split(state: Mapping[str, int], *, saved: int, allocated: int) -> dict[str, int]:
    """The peak of allocated memory, split into parts that add up to it. All are in bytes.

    state: weights, gradients and optimiser state. activations: the tensors that autograd keeps
    for backward, with the 16-bit copies of weights among them. Backward frees them while it
    creates gradients; activations are at most the difference between peak and state. workspace:
    the rest, such as intermediate outputs, 16-bit copies of other weights, the batch, and the
    workspaces of CUDA's libraries.
    """
    left = allocated - sum(state.values())
    activations = min(saved, left)
    rest = {"activations": activations, "workspace": left - activations}
    return {**state, **rest, "allocated": allocated}


def in_mib(parts: Mapping[str, int]) -> dict[str, float]:
    """Bytes as MiB."""
    return {key: size / MIB for key, size in parts.items()}


def free_unused(device: torch.device) -> None:
    """Free memory of earlier work in this process: reference cycles and torch's cache."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


@contextmanager
def unchanged(method: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore what training steps change, and drop gradients: the method is as it was before.

    These are trainable tensors, buffers such as the statistics of a BatchNorm, training mode and
    random state. They are also restored after an error, for example out of memory.
    """
    # On the CPU, so that these copies are not part of the GPU's peak.
    values = {name: t.detach().cpu().clone() for name, t in _changing(method).items()}
    mode = method.training
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        method.zero_grad(set_to_none=True)  # first, because it frees memory
        with torch.no_grad():
            now = _changing(method)
            for name, value in values.items():
                now[name].copy_(value)
        method.train(mode)


def _changing(method: nn.Module) -> dict[str, Tensor]:
    """Trainable tensors and buffers by their names."""
    return {**trained(method), **dict(method.named_buffers())}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
