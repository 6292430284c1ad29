"""What `python -m benchmarks.gpu` measures: each function makes one row of a table."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.compare import Setting, clock, noise, peak_gib, task
from petlbench.config.nodes import CUDA_GRAPHS, MEMORY_MODES
from petlbench.config.schema import Config
from petlbench.cost import forecast, speed
from petlbench.cost.memory import TrainingStep
from petlbench.data.feed import Feed
from petlbench.delta import trained
from petlbench.run import build
from petlbench.train import evaluation, replay
from petlbench.train.frozen import frozen_in_16_bit
from petlbench.train.optim import parameter_groups
from petlbench.train.output_store import STORE
from petlbench.train.precision import Precision
from petlbench.train.step import Batch, training_step
from petlbench.train.unfinished import Unfinished
from petlbench.units import GIB, MIB_OF_GIB

Row = dict[str, Any]
BATCHES = 8  # of an epoch
LOSSES = 3  # of the first steps
ADAMW: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "fused": partial(torch.optim.AdamW, fused=True),
    "foreach": partial(torch.optim.AdamW, foreach=True),
    "one by one": partial(torch.optim.AdamW, foreach=False),
}


@dataclass(frozen=True)
class Case:
    """A row of a table. measure: the rest of the row beside its name."""

    table: str
    name: str
    measure: Callable[[Setting], Row]


class Steps:
    """Training steps on one batch of noise, whose losses are kept."""

    def __init__(self, setting: Setting, method: str, *overrides: str) -> None:
        self.config = setting.config(method, overrides)
        self.device = build.device(setting.device)
        torch.manual_seed(0)
        images = noise(self.config, setting.batch).images.to(self.device)
        made = build.method(self.config).to(self.device)
        precision = Precision(self.config.train.precision, self.device)
        prepared = build.feed(self.config).prepare(images)
        self.step = TrainingStep(made, precision, self.config.train, prepared)
        self.losses: list[Tensor] = []

    def __call__(self) -> None:
        step = self.step
        labels = torch.arange(len(step.labels), device=self.device) % 2
        batch = (step.images, labels)
        self.losses.append(
            training_step(
                step.method, step.optimiser, step.precision, *batch, forward=step.forward
            )
        )

    def row(self, repeats: int) -> Row:
        """Seconds of the first step and of later ones, GiB of their peak, and the first losses."""
        first = speed.seconds(self, 1, self.device)
        speed.seconds(self, speed.WARM_UP - 1, self.device)
        seconds = [speed.seconds(self, 1, self.device) for _ in range(repeats)]
        memory = _memory(self, self.device)
        losses = [float(loss) for loss in self.losses[:LOSSES]]
        self.step.end()
        return {"seconds": seconds, "first_s": first, **memory, "losses": losses}


def _memory(work: Callable[[], object], device: torch.device) -> Row:
    """GiB at the peak of `work`; reserved memory has that of CUDA graphs, allocated has not."""
    if device.type != "cuda":
        return {"allocated_gib": None, "reserved_gib": None}
    allocated = peak_gib(work, device)
    return {
        "allocated_gib": allocated,
        "reserved_gib": torch.cuda.max_memory_reserved(device) / GIB,
    }


def replayed(method: str, way: str, setting: Setting) -> Row:
    """Epochs with outputs of frozen blocks computed again, stored on the device, or pinned."""
    cache = "off" if way == "off" else "auto"
    config = setting.config(method, (f"train.prefix_cache={cache}",))
    device = build.device(setting.device)
    times: list[float] = []
    STORE.clear()
    torch.manual_seed(0)
    made = build.method(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build.trainer(
            config,
            task(config, noise(config, BATCHES * setting.batch)),
            lambda _: times.append(clock(device)),
            Unfinished(Path(folder), {}, device, "a benchmark"),
        )
        times.append(clock(device))
        with mock.patch.object(replay, "limit_of", _full) if way == "pinned" else nullcontext():
            trainer.train(made)
    STORE.clear()
    epochs = [after - before for before, after in itertools.pairwise(times)]
    return {
        "seconds": [epoch / BATCHES for epoch in epochs[1:]],
        "first_s": epochs[0] / BATCHES,
        "note": trainer.prefix_cache,
        "losses": [epoch.loss for epoch in trainer.history[:LOSSES]],
    }


def _full(place: torch.device, gib: float | None, store: object) -> int:
    """Bytes for stored outputs, as if a GPU had none."""
    return 0 if place.type == "cuda" else 64 * GIB


def memory_mode(method: str, mode: str, setting: Setting) -> Row:
    """A step in a memory mode; its peak is predicted too."""
    steps = Steps(setting, method, f"train.memory={mode}")
    with frozen_in_16_bit(steps.step.method, steps.step.precision):
        row = steps.row(setting.repeats)
    return row | {"predicted_gib": _predicted(steps.config, setting)}


def _predicted(config: Config, setting: Setting) -> float:
    peak = forecast.peak_mib(
        build.on_meta(config),
        precision="fp32" if setting.precision == "fp32" else "bf16",
        train=config.train,
        batch=setting.batch,
        size=config.input.size,
    )
    return peak["allocated"] / MIB_OF_GIB


def frozen_weights(method: str, is_16_bit: bool, setting: Setting) -> Row:
    """A step with frozen weights in 16 bits, or cast at each use."""
    steps = Steps(setting, method)
    held = frozen_in_16_bit(steps.step.method, steps.step.precision)
    with held if is_16_bit else nullcontext():
        return steps.row(setting.repeats)


def number_format(name: str, setting: Setting) -> Row:
    """A step in a number format; fp16 scales its losses."""
    steps = Steps(replace(setting, precision=name), "lora")
    with frozen_in_16_bit(steps.step.method, steps.step.precision):
        return steps.row(setting.repeats)


def adamw(method: str, form: str, setting: Setting) -> Row:
    """Steps of the optimiser alone."""
    config, device = setting.config(method, ()), build.device(setting.device)
    made = build.method(config).to(device)
    optimiser = ADAMW[form](parameter_groups(made, config.train))
    for tensor in trained(made).values():
        tensor.grad = torch.randn_like(tensor)
    speed.seconds(optimiser.step, speed.WARM_UP, device)
    seconds = [speed.seconds(optimiser.step, 1, device) for _ in range(setting.repeats)]
    return {"seconds": seconds, "tensors": len(trained(made))}


def tested(times: float, setting: Setting) -> Row:
    """A test of `times` the usual number of images at once, and the prediction of its memory."""
    config, device = setting.config("linear", ()), build.device(setting.device)
    number = max(1, int(times * (evaluation.USUAL if device.type == "cuda" else setting.batch)))
    network = build.method(config).to(device).eval()
    precision = Precision(setting.precision, device)
    images = torch.rand(number, 3, config.input.size, config.input.size, device=device)

    def forward() -> None:
        with torch.inference_mode(), precision.autocast():
            network(images)

    with frozen_in_16_bit(network, precision):
        speed.seconds(forward, speed.WARM_UP, device)
        seconds = [speed.seconds(forward, 1, device) for _ in range(setting.repeats)]
        sizes = (network, precision, config.input.size)
        return {
            "images": number,
            "seconds": seconds,
            **_memory(forward, device),
            "predicted_gib": evaluation.forward_bytes(*sizes, number) / GIB,
            "chosen": evaluation.batch_size(*sizes),
        }


def fed(way: str, setting: Setting) -> Row:
    """Images/s of the input, and the largest difference from the CPU's numbers."""
    config = setting.config("linear", ())
    feed = build.feed(config)
    split = noise(config, BATCHES * setting.batch)
    order = torch.arange(len(split)).split(setting.batch)
    on_cpu = feed.prepare(split.images)
    ways: dict[str, Callable[[], Iterator[Batch]]] = {
        "from the device": partial(feed.plain, split, order),
        "from pinned memory": partial(feed.plain, split, order),
        "tests": partial(feed.in_order, split, setting.batch),
    }
    with mock.patch.object(Feed, "_fits", return_value=way == "from the device"):
        started = clock(feed.device)
        batches = list(ways[way]())
        seconds = clock(feed.device) - started
    images, labels = (torch.cat(parts).cpu() for parts in zip(*batches, strict=True))
    return {
        "images_per_s": len(split) / seconds,
        "difference": float((images - on_cpu).abs().max()),
        "wrong_labels": int((labels != split.labels).sum()),
    }


def compiled(method: str, value: str, setting: Setting) -> Row:
    """A step as `train.compile` says; the first one compiles."""
    torch.compiler.reset()
    steps = Steps(setting, method, f"train.compile={value}")
    with frozen_in_16_bit(steps.step.method, steps.step.precision):
        return steps.row(setting.repeats)


def _rows() -> Iterator[Case]:
    """All rows; those of a compiler, which take longest, come last."""
    for way in ("from the device", "from pinned memory", "tests"):
        yield Case("Input", way, partial(fed, way))
    for method in ("linear", "dtl"):
        for way in ("off", "on the device", "pinned"):
            yield Case("Replay", f"{method}, {way}", partial(replayed, method, way))
    for method in ("full", "lora", "dtl"):
        for mode in MEMORY_MODES:
            name = f"{method}, train.memory={mode}"
            yield Case("Memory modes", name, partial(memory_mode, method, mode))
    for method in ("lora", "dtl"):
        for is_16_bit in (False, True):
            name = f"{method}, {'held in 16 bits' if is_16_bit else 'cast at each use'}"
            yield Case("Frozen weights", name, partial(frozen_weights, method, is_16_bit))
    for name in ("fp32", "bf16", "fp16"):
        yield Case("Number formats", f"lora, {name}", partial(number_format, name))
    for method in ("lora", "full"):
        for form in ADAMW:
            yield Case("AdamW", f"{method}, {form}", partial(adamw, method, form))
    for times in (0.5, 1, 2, 4):
        yield Case("Tests", f"{times:g} times the usual", partial(tested, times))
    for method in ("lora", "dtl"):
        for value in ("false", "true", CUDA_GRAPHS):
            name = f"{method}, train.compile={value}"
            yield Case("Compile", name, partial(compiled, method, value))


CASES = tuple(_rows())
TABLES = tuple(dict.fromkeys(case.table for case in CASES))
