"""Bytes and FLOPs of a training step, counted on shapes alone: no weights, no data, no GPU."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from petlbench.layers.kept import unchanged
from petlbench.method import Method
from petlbench.model.drop_path import keep_masks
from petlbench.model.template import refilled
from petlbench.train import last_block, recompute
from petlbench.train.frozen import frozen_in_16_bit
from petlbench.train.precision import Precision

CPU, META = torch.device("cpu"), torch.device("meta")
Shape = tuple[int, ...]


def saved_bytes(
    method: nn.Module, precision: Precision, images: Tensor, memory: str = "fast"
) -> int:
    """Bytes that autograd keeps for backward, without parameters and buffers.

    images: (B, 3, H, W). memory: as `train.memory`. Each storage is counted once, with its full
    size.
    """
    tensors = [*method.parameters(), *method.buffers()]
    own = {storage for tensor in tensors for storage in _storages(tensor)}
    noted: list[tuple[ref[Tensor], dict[int, int]]] = []  # a kept tensor, its storages

    def note(tensor: Tensor) -> Tensor:
        kept = tensor.detach()  # an output that its own node keeps would never be freed
        noted.append((ref(kept), _storages(tensor)))
        return kept

    # The graph must exist until the count is read: another storage may reuse a freed address.
    with torch.autograd.graph.saved_tensors_hooks(note, unchanged):
        with precision.autocast(), last_block.held(method)(), recompute.held(method, memory)():
            logits = method(images)
        # Not the parts of the graph that a method has thrown away.
        living = (storages for kept, storages in noted if kept() is not None)
        sizes = {key: size for storages in living for key, size in storages.items()}
        return sum(sizes[key] for key in sizes.keys() - own) if logits.requires_grad else 0


def saved_bytes_on_cpu(
    method: Method, precision: Precision, *, batch: int, size: int, memory: str = "fast"
) -> int:
    """`saved_bytes` of a training step on the CPU, without running it.

    Equal to the real count in fp32. Under autocast it may be up to 1 % lower: torch's shape
    function of LayerNorm assumes statistics in 16 bits, but the CPU keeps them in fp32.
    """
    fake = FakeTensorMode()
    network = empty_copy(method, CPU, fake).train()
    with fake, masks(network, batch), frozen_in_16_bit(network, precision):
        return saved_bytes(network, precision, torch.empty(batch, 3, size, size), memory)


def gflops(method: Method, *, batch: int, size: int, memory: str = "fast") -> dict[str, float]:
    """1e9 floating-point operations per image, of inference and of a training step.

    memory: as `train.memory`; what backward computes again counts. A method without training
    steps computes each training image as in inference.
    """
    with META:
        images = torch.empty(batch, 3, size, size)
        plain = empty_copy(method, META, nullcontext()).eval().requires_grad_(False)
        forward = flops(lambda: plain(images))
        if not method.takes_steps:
            return dict.fromkeys(("forward", "step"), forward / batch / 1e9)
        training = empty_copy(method, META, nullcontext()).train()
        with (
            masks(training, batch),
            last_block.held(training)(),
            recompute.held(training, memory)(),
        ):
            step = flops(lambda: _pass(training, images))
    return {"forward": forward / batch / 1e9, "step": step / batch / 1e9}


def _pass(method: nn.Module, images: Tensor) -> None:
    """Forward, and backward if a tensor is trained."""
    total = method(images).sum()
    if total.requires_grad:
        total.backward()


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions, 2 for each multiply-add.

    Attention counts as two products, without what a fused kernel recomputes in backward.
    """
    formulas = {torch.ops.aten.convolution_backward: convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    return int(counter.get_total_flops())


def convolution_backward(
    gradient: Shape, inputs: Shape, weight: Shape, *others: Any, **named: Any
) -> int:
    """FLOPs of a convolution's backward pass: those of forward for each of the two gradients.

    The formula of torch counts the weight gradient of a grouped convolution as that of a dense
    one: for a depthwise convolution `width` times too many.
    """
    required = others[-1][:2]  # gradients of input and weight
    return int(sum(required) * conv_flop_count(list(inputs), list(weight), list(gradient)))


def empty_copy(
    method: Method, device: torch.device, mode: AbstractContextManager[object]
) -> Method:
    """A copy of a method with empty tensors, created on `device` inside `mode`.

    Only the structure is network; the method itself may be on the meta device.
    """

    def empty(tensor: Tensor) -> Tensor:
        with mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

    plain = method.backbone.plain_parameters  # a method may have removed some of them
    copy = refilled(method, [*method.parameters(), *method.buffers(), *plain], empty)
    last_block.copied(method, copy)
    return copy


def masks(method: Method, batch: int) -> AbstractContextManager[None]:
    """Drop-path masks from a separate generator: counting does not change torch's random state."""
    return keep_masks(method, batch, torch.Generator())


def _storages(tensor: Tensor) -> dict[int, int]:
    """Bytes of the storages of a tensor, of which a sparse one has two, by an identity."""
    parts = (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,)
    storages = (part.untyped_storage() for part in parts)
    # data_ptr does not exist for a tensor without data.
    return {int(storage._cdata): storage.nbytes() for storage in storages}
