"""What a training step costs: parameters, memory. One function serves the run and the probe."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from petlbench.interface import Method
from petlbench.train.precision import Precision
from petlbench.train.step import build_optimiser, training_step

MIB = 2**20


def parameters(method: Method) -> dict[str, int]:
    """Trainable parameters: the method's (head excluded, as papers count) and the head's."""
    head = sum(tensor.numel() for tensor in method.backbone.head.parameters())
    trained = sum(tensor.numel() for tensor in method.parameters() if tensor.requires_grad)
    return {"method": trained - head, "head": head}


def units(method: nn.Module) -> int:
    """Structural units (leaves.py), each once; what methods without new modules have is 0."""
    return sum(getattr(module, "units", 0) for module in method.modules())


def memory_of_step(
    method: Method,
    *,
    device: torch.device,
    precision: Precision,
    settings: Mapping[str, Any],
    size: int,
    classes: int,
) -> dict[str, Any]:
    """Memory of one training step on noise at the run's batch size, after a warm-up step.

    `saved_mb`: bytes autograd keeps for backward (1e6 bytes; each storage once, parameters and
    buffers excluded). `peak_mib`: on CUDA the peak of allocated memory and its parts (2^20 bytes),
    null on CPU. Weights, random state and training mode are as before afterwards.
    """
    method.to(device)
    labels = torch.arange(settings["batch_size"], device=device) % classes
    with _unchanged(method, device):
        images = torch.randn(len(labels), 3, size, size, device=device)
        method.train()
        optimiser = build_optimiser(method, settings)
        training_step(method, optimiser, precision, images, labels)
        optimiser.zero_grad(set_to_none=True)
        saved_bytes = _saved_bytes(method, precision, images)
        peak = None
        if device.type == "cuda":
            peak = _cuda_peak(method, optimiser, precision, images, labels)
        optimiser.zero_grad(set_to_none=True)
    return {"saved_mb": saved_bytes / 1e6, "peak_mib": peak}


def _saved_bytes(method: nn.Module, precision: Precision, images: Tensor) -> int:
    own = {tensor.untyped_storage().data_ptr() for tensor in method.state_dict().values()}
    own |= {tensor.untyped_storage().data_ptr() for tensor in method.buffers()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that its own node keeps would never be freed

    # The graph must live until the count is read, or a freed address would stand for two storages.
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        with precision.autocast():
            logits = method(images)
        return sum(seen.values()) if logits.requires_grad else 0


def _cuda_peak(
    method: nn.Module,
    optimiser: torch.optim.Optimizer,
    precision: Precision,
    images: Tensor,
    labels: Tensor,
) -> dict[str, float]:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    training_step(method, optimiser, precision, images, labels)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    reserved = torch.cuda.max_memory_reserved()
    weights = _bytes([*method.parameters(), *method.buffers()])
    gradients = _bytes(p.grad for p in method.parameters() if p.grad is not None)
    states = (value for state in optimiser.state.values() for value in state.values())
    state = _bytes(value for value in states if isinstance(value, Tensor))
    parts = {"weights": weights, "gradients": gradients, "optimiser": state}
    parts["activations"] = peak - sum(parts.values())
    return {
        key: size / MIB
        for key, size in (parts | {"allocated": peak, "reserved": reserved}).items()
    }


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextmanager
def _unchanged(method: nn.Module, device: torch.device) -> Iterator[None]:
    """Give back trainable tensors, training mode and random state as they were."""
    trained = [tensor for tensor in method.parameters() if tensor.requires_grad]
    kept = [tensor.detach().cpu().clone() for tensor in trained]
    mode = method.training
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
    with torch.no_grad():
        for tensor, value in zip(trained, kept, strict=True):
            tensor.copy_(value)
    method.train(mode)
