"""What only a GPU runs, on fakes: no step waits for it, and each answer is of the named one."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from petlbench.cost import shapes
from petlbench.data.feed import Feed
from petlbench.data.preparation import Preparation
from petlbench.delta import trained
from petlbench.method import Method
from petlbench.testing import method_on, tiny
from petlbench.testing.networks import SIZE
from petlbench.train.optim import build_optimiser
from petlbench.train.precision import Precision
from petlbench.train.step import accumulated_step
from tests.loops import TINY_VIEW, noise
from tests.settings import train

GPU = torch.device("cuda", 0)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Waits(TorchDispatchMode):
    """Notes the operations for which a program waits for the GPU, by their names."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # copy_(target, source), _to_copy(source)
        is_moved = func in COPIES and args[func is COPIES[1]].device.type != out.device.type
        blocks = is_moved and not (kwargs or {}).get("non_blocking")
        if blocks or func in READS:
            self.names.append(str(func))
        return out


class Forwards(Precision):
    """Without a GPU torch has no backward pass on one."""

    def __init__(self, method: Method) -> None:
        super().__init__("fp32", GPU)
        self.method = method

    def backward(self, loss: Tensor) -> None:
        for tensor in trained(self.method).values():
            tensor.grad = torch.empty_like(tensor)


def test_no_step_of_a_training_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what backward does: its input, the forward pass, clipping and AdamW."""
    monkeypatch.setattr(Feed, "_fits", lambda self, images: True)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    method = shapes.empty_copy(method_on(tiny("vit", drop_path=0.2), "lora"), GPU, fake).train()
    optimiser = build_optimiser(method, train())
    feed = Feed(
        device=GPU,
        prepare=Preparation(TINY_VIEW, mean=[0.5] * 3, std=[0.5] * 3),
        augmentation=None,
        workers=0,
        seed=0,
    )
    split = noise(4)
    places = [torch.arange(4), torch.arange(4)]
    with fake:
        batches = feed.plain(split, places)
        first = next(batches)  # a training set is brought to the device once
        with Waits() as waits:
            accumulated_step(
                method,
                optimiser,
                Forwards(method),
                (first, next(batches)),
                8,
                torch.Generator().manual_seed(0),
                clip_grad=1.0,
            )
    assert first[0].shape == (4, 3, SIZE, SIZE)
    assert first[0].device == GPU
    assert waits.names == []


def test_waits_are_seen() -> None:
    with FakeTensorMode(), Waits() as waits:
        values = torch.ones(3)
        values.to(GPU, non_blocking=True)
        moved = values.to(GPU)
        moved.cpu()
        moved.copy_(values)
    assert waits.names == ["aten._to_copy.default"] * 2 + ["aten.copy_.default"]


def test_auto_takes_the_format_of_the_named_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two GPUs the second one supports bf16."""
    current = [0]

    class Chosen:
        def __init__(self, device: torch.device) -> None:
            self.index = device.index

        def __enter__(self) -> None:
            current.append(self.index)

        def __exit__(self, *error: object) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", Chosen)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1] == 1
    )
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: None)
    formats = [Precision("auto", torch.device("cuda", number)).name for number in (0, 1)]
    assert formats == ["fp16", "bf16"]
