"""The cost section of a record: what a method trains, and what a training step of it takes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from petlbench.cost import memory, shapes
from petlbench.method import Method
from petlbench.train.precision import Precision


def section(
    method: Method,
    *,
    device: torch.device,
    precision: Precision,
    settings: Mapping[str, Any],
    size: int,
    warmup: int,
    steps: int,
) -> dict[str, Any]:
    """Parameters, units, FLOPs and memory of a training step at the settings' batch size.

    The method may be on the meta device where the device is no GPU.
    """
    return counts(method, batch=settings["batch_size"], size=size) | memory_taken(
        method,
        device=device,
        precision=precision,
        settings=settings,
        size=size,
        warmup=warmup,
        steps=steps,
    )


def counts(method: Method, *, batch: int, size: int) -> dict[str, Any]:
    """`parameters`, `units` and `gflops`, from shapes."""
    return {
        "parameters": parameters(method),
        "units": units(method),
        "gflops": shapes.gflops(method, batch=batch, size=size),
    }


def memory_taken(
    method: Method,
    *,
    device: torch.device,
    precision: Precision,
    settings: Mapping[str, Any],
    size: int,
    warmup: int,
    steps: int,
) -> dict[str, Any]:
    """`saved_mb` and `peak_mib` of a training step.

    On CPU `saved_mb` is counted on shapes and `peak_mib` is null. On CUDA the peak of `steps`
    training steps on noise after `warmup` others is measured, with everything freed that earlier
    work in the process left. Weights, random state and training mode are as before afterwards.
    """
    batch = settings["batch_size"]
    if device.type != "cuda":
        saved = shapes.saved_bytes_on_cpu(method, precision, batch=batch, size=size)
        return {"saved_mb": saved / 1e6, "peak_mib": None}
    memory.free_what_is_left(device)
    method.to(device)
    with memory.unchanged(method, device):
        images = torch.randn(batch, 3, size, size, device=device)
        step = memory.TrainingStep(method, precision, settings, images)
        return memory.measured(step, warmup=warmup, steps=steps)


def parameters(method: Method) -> dict[str, int]:
    """Trainable parameters: the method's (head excluded, as papers count) and the head's."""
    head = sum(tensor.numel() for tensor in method.backbone.head.parameters())
    trained = sum(tensor.numel() for tensor in method.parameters() if tensor.requires_grad)
    return {"method": trained - head, "head": head}


def units(method: nn.Module) -> int:
    """Structural units (leaves.py), each once; what methods without new modules have is 0."""
    return sum(getattr(module, "units", 0) for module in method.modules())
