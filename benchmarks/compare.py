"""Two forms of a method in one process, taking turns: seconds, kept bytes, peak memory."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cases import Case
from benchmarks.textbook import Linear
from petlbench.config import compose
from petlbench.config.schema import Config
from petlbench.cost import memory, shapes
from petlbench.data.task import Split, Task
from petlbench.method import Method
from petlbench.run import build
from petlbench.train.phase import Epoch
from petlbench.train.precision import Precision
from petlbench.train.unfinished import Unfinished
from petlbench.units import GIB

WARMUP = 1  # steps that are not measured: petlbench's first epoch may fill a cache
TOLERANCE = 1e-5  # largest relative difference of logits and gradients, in fp32
# the mean of the patch tokens and then the norm: heekhero/DTL
COMMON = (
    *("dataset=probe", "backbone.pretrained=false", "backbone.pool=patch_mean_then_norm"),
    "train.prefix_cache=off",
)


class Unequal(ArithmeticError):
    """The two forms do not compute the same."""


@dataclass(frozen=True)
class Setting:
    """The conditions of every comparison.

    network: overrides that choose backbone and image size. batch: images of a step. repeats:
    measured steps.
    """

    network: tuple[str, ...]
    batch: int
    repeats: int
    device: str
    precision: str

    def config(self, method: str, overrides: tuple[str, ...]) -> Config:
        """The configuration of petlbench; an epoch is one step."""
        return compose.single(
            [
                *(f"method={method}", *COMMON, *self.network, f"device={self.device}"),
                *(f"train.epochs={WARMUP + self.repeats}", f"train.batch_size={self.batch}"),
                *(f"train.precision={self.precision}", *overrides),
            ]
        )


class TextbookStep:
    """A training step of a textbook form on images (B, 3, H, W) and labels (B,)."""

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor, config: Config) -> None:
        self.network = network.train()
        trained = [tensor for tensor in network.parameters() if tensor.requires_grad]
        self.optimiser = torch.optim.AdamW(
            trained, lr=config.train.lr, weight_decay=config.train.weight_decay
        )
        self.images, self.labels = images, labels
        self.precision = Precision(config.train.precision, images.device)

    def __call__(self) -> float:
        self.optimiser.zero_grad()
        with self.precision.autocast():
            loss = F.cross_entropy(self.network(self.images).float(), self.labels)
        loss.backward()
        self.optimiser.step()
        return loss.item()


class Turns:
    """Seconds of petlbench's steps; after each of them `other` takes its turn and is timed.

    clock: CPU seconds of the process, or on a GPU seconds of all that was started.
    """

    def __init__(self, clock: Callable[[], float], other: Callable[[], object]) -> None:
        self.clock, self.other = clock, other
        self.seconds: dict[str, list[float]] = {"petlbench": [], "textbook": []}
        self.started = clock()

    def __call__(self, _: Epoch) -> None:
        """Hook of petlbench's training after an epoch, which is one step."""
        ended = self.clock()
        self.other()
        self.seconds["petlbench"].append(ended - self.started)
        self.seconds["textbook"].append(self.clock() - ended)
        self.started = self.clock()


def compare(case: Case, setting: Setting) -> dict[str, Any]:
    """The figures of a case. Raises Unequal if the two forms do not compute the same."""
    config = setting.config(case.method, case.overrides)
    device = build.device(setting.device)
    torch.manual_seed(0)
    method, textbook = build.method(config), case.textbook(_network(config))
    _equalise(textbook, method)
    split = noise(config, setting.batch)
    images = build.feed(config).prepare(split.images.to(device))
    difference = relative_difference(textbook, method, images[:1].cpu())
    if not difference <= TOLERANCE:
        raise Unequal(f"{case.name}: logits or gradients differ by {difference:.1e}")
    start = partial(TextbookStep, textbook, images, split.labels.to(device), config)
    precision = Precision(config.train.precision, device)
    start_ours = partial(memory.TrainingStep, method, precision, config.train, images)
    figures = {"petlbench": _memory(start_ours, method), "textbook": _memory(start, textbook)}
    textbook.to(device)
    return {
        "name": case.name,
        "overrides": [f"method={case.method}", *case.overrides],
        "difference": difference,
        "bars": dict(case.bars),
        "seconds": _seconds(config, method, split, start()),
        **{key: {form: part[key] for form, part in figures.items()} for key in ("kept", "peak")},
    }


def relative_difference(textbook: Linear, method: Method, images: Tensor) -> float:
    """Of logits and gradients, the largest over all tensors; without dropout."""
    ours, theirs = method.eval()(images), textbook.eval()(images)
    compared = [(theirs.detach(), ours.detach())]
    for logits in (ours, theirs):
        logits.square().mean().backward()
    for own, other in textbook.pairs(method):
        assert (own.grad is None) == (other.grad is None), "one form does not train the tensor"
        if own.grad is not None and other.grad is not None:
            compared.append((own.grad, other.grad))
    largest = max(float((a - b).norm() / a.norm()) for a, b in compared)
    for network in (method, textbook):
        network.zero_grad(set_to_none=True)
    return largest


def _network(config: Config) -> nn.Module:
    """The network as timm builds it."""
    network: nn.Module = timm.create_model(
        config.backbone.name,
        pretrained=False,
        num_classes=config.dataset.classes,
        img_size=config.input.size,
        drop_path_rate=0.0,
    )
    return network


def _equalise(textbook: Linear, method: Method) -> None:
    """Give the textbook form the weights of petlbench's, in which no trained tensor is zero."""
    with torch.no_grad():
        for own, other in textbook.pairs(method):
            if not other.any():  # behind it gradients would be zero
                nn.init.normal_(other, std=0.02)
            own.copy_(other)


def noise(config: Config, count: int) -> Split:
    """Images of noise (count, 3, size, size), and a class for each."""
    draw = torch.Generator().manual_seed(0)
    size = config.input.size
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=draw)
    labels = torch.randint(config.dataset.classes, (count,), generator=draw)
    return Split(images, labels, {"format": "noise"})


def task(config: Config, split: Split) -> Task:
    """A task whose only split is the one of training."""
    node = config.dataset
    about = (node.task, node.title, node.suite, node.group, node.classes)
    return Task(*about, tests=(), open=lambda name: split)


def _seconds(
    config: Config, method: Method, split: Split, step: TextbookStep
) -> dict[str, list[float]]:
    """Seconds of the measured steps of each form."""
    device = step.images.device
    turns = Turns(partial(clock, device), step)
    with tempfile.TemporaryDirectory() as folder:
        unfinished = Unfinished(Path(folder), {}, device, "a benchmark")
        trainer = build.trainer(config, task(config, split), turns, unfinished)
        method.fit(trainer)
    return {form: seconds[WARMUP:] for form, seconds in turns.seconds.items()}


def clock(device: torch.device) -> float:
    """CPU seconds of the process, or on a GPU seconds when all that was started is done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _memory(start: Callable[[], Any], network: nn.Module) -> dict[str, float | None]:
    """`kept`: MB (1e6 bytes) for backward. `peak`: GiB of a step, on a GPU alone.

    start: makes a step of `network`, with its images and precision. The network ends on the CPU.
    """
    step = start()
    device = step.images.device
    network.to(device)
    mode = step.memory if isinstance(step, memory.TrainingStep) else "fast"
    kept = shapes.saved_bytes(network.train(), step.precision, step.images, mode) / 1e6
    peak = peak_gib(step, device) if device.type == "cuda" else None
    network.zero_grad(set_to_none=True)
    network.to("cpu")  # the other form has the device alone
    return {"kept": kept, "peak": peak}


def peak_gib(step: Callable[[], object], device: torch.device) -> float:
    """Allocated memory of a GPU at the peak of the second call, in GiB."""
    step()  # makes the state of the optimiser
    memory.free_unused(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / GIB
