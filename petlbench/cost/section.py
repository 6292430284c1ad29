"""The cost section of a record: trained parameters, FLOPs and memory of a training step."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from petlbench.config.nodes import Train
from petlbench.cost import memory, shapes
from petlbench.errors import UserError, first_sentence
from petlbench.method import Method
from petlbench.train.forward import without_graphs
from petlbench.train.frozen import frozen_in_16_bit
from petlbench.train.output_store import STORE
from petlbench.train.precision import Precision

log = logging.getLogger("petlbench")


@dataclass(frozen=True)
class Conditions:
    """The conditions of a measurement.

    size: side of the images in pixels. warmup: number of training steps before the measured ones.
    steps: number of measured training steps.
    """

    device: torch.device
    precision: Precision
    train: Train
    size: int
    warmup: int = 1
    steps: int = 1

    @property
    def batch(self) -> int:
        """Images of a training step."""
        return self.train.batch_size


def section(method: Method, conditions: Conditions, notes: dict[str, Any]) -> dict[str, Any]:
    """Parameters, units, FLOPs and memory of a training step.

    The method may be on the meta device unless the device is a GPU. notes: a cost that
    cannot be counted on shapes is None, and its reason is added here.
    """
    return counts(method, conditions, notes) | memory_taken(method, conditions, notes)


def counts(method: Method, conditions: Conditions, notes: dict[str, Any]) -> dict[str, Any]:
    """`parameters`, `units` and `gflops`, from shapes."""
    return {
        "parameters": parameters(method),
        "units": units(method),
        "gflops": countable(
            "gflops",
            lambda: shapes.gflops(
                method,
                batch=conditions.batch,
                size=conditions.size,
                memory=conditions.train.memory,
            ),
            notes,
        ),
    }


def memory_taken(method: Method, conditions: Conditions, notes: dict[str, Any]) -> dict[str, Any]:
    """`saved_mb` and `peak_mib` of a training step.

    Without training steps nothing is kept. On CPU `saved_mb` is counted on shapes and `peak_mib`
    is None. On CUDA the peak of `steps` training steps on noise after `warmup` others is measured,
    without CUDA graphs; memory of earlier work is freed first. Weights, random state and training
    mode are restored afterwards.
    """
    device, size = conditions.device, conditions.size
    if not method.takes_steps:
        notes["peak_mib"] = memory.NO_STEP
        return {"saved_mb": 0.0, "peak_mib": None}
    # torch keeps statistics of allocated memory for GPUs only.
    if device.type != "cuda":
        return {"saved_mb": _saved_on_cpu(method, conditions, notes), "peak_mib": None}
    # Stored outputs of earlier trainings are not part of this one's peak.
    with STORE.aside():
        memory.free_unused(device)
        method.to(device)
        with memory.unchanged(method, device), frozen_in_16_bit(method, conditions.precision):
            images = torch.randn(conditions.batch, 3, size, size, device=device)
            train = without_graphs(conditions.train)
            step = memory.TrainingStep(method, conditions.precision, train, images)
            return memory.measured(step, warmup=conditions.warmup, steps=conditions.steps)


def countable(name: str, count: Callable[[], Any], notes: dict[str, Any]) -> Any:
    """A count on shapes, or None and a note if the method does not run on shapes alone.

    A method may read values (`.item()`, data-dependent branches), which empty tensors do not have.
    """
    try:
        return count()
    except UserError:  # a mistake of the user, not a limit of counting
        raise
    except Exception as error:  # whatever the method's own code raises
        reason = first_sentence(error)
        log.warning("%s cannot be counted on shapes: %s", name, reason)
        notes[name] = f"not counted: {reason}"
        return None


def parameters(method: Method) -> dict[str, int]:
    """Trainable parameters: the method's (head excluded, as papers count) and the head's."""
    return {
        "method": sum(tensor.numel() for tensor in method.counted_parameters()),
        "head": sum(tensor.numel() for tensor in method.backbone.head.parameters()),
    }


def units(method: nn.Module) -> int:
    """Number of structural units (layers/); 0 for methods without new modules."""
    # timm's modules have no such attribute.
    return sum(getattr(module, "units", 0) for module in method.modules())


def _saved_on_cpu(method: Method, conditions: Conditions, notes: dict[str, Any]) -> float | None:
    """Bytes kept for backward, in MB (1e6 bytes)."""

    def count() -> float:
        saved = shapes.saved_bytes_on_cpu(
            method,
            conditions.precision,
            batch=conditions.batch,
            size=conditions.size,
            memory=conditions.train.memory,
        )
        return saved / 1e6

    saved: float | None = countable("saved_mb", count, notes)
    return saved
