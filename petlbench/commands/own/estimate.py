"""What a method takes: its predicted peak of memory, and its time by a few measured steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from petlbench.commands.own.settings import Sizes
from petlbench.config.nodes import MEMORY_MODES, Train
from petlbench.config.schema import Config
from petlbench.cost import forecast, speed
from petlbench.cost.memory import TrainingStep, free_unused, unchanged
from petlbench.method import Method
from petlbench.run import build, splits
from petlbench.train.forward import without_graphs
from petlbench.train.frozen import frozen_in_16_bit
from petlbench.train.precision import Precision
from petlbench.units import MIB_OF_GIB

CPU_BATCH = 8  # images of the first measured steps on a CPU, which a large network makes slow
ENOUGH_S = 1.0  # of measured steps
MOST_STEPS = 5


@dataclass(frozen=True)
class Estimate:
    """Of one run. memory: the mode of training with the peak.

    peak_gib: None without training steps. seconds: None if nothing could be measured. refusal: why
    the images do not do for the method; None if they do.
    """

    memory: str
    peak_gib: float | None
    seconds: float | None
    refusal: str | None = None


def estimated(configs: Sequence[Config], size: Sizes, budget_gib: float) -> Estimate:
    """The estimate in the first memory mode that fits the budget, or in the last one.

    configs: the runs of a method, which differ in the fold alone.
    """
    config = configs[0]
    method = build.method(replace(config, backbone=replace(config.backbone, pretrained=False)))
    if method.searches and not all(splits.can_search(c, splits.data(c)) for c in configs):
        return Estimate(config.train.memory, None, None, f"the folder {splits.TOO_FEW}")
    if not method.takes_steps:  # as k-NN, which looks at each image once
        image_s = _image_s(config, method)
        seconds = None if image_s is None else image_s * (size.train + size.test)
        return Estimate(config.train.memory, None, seconds)
    modes = MEMORY_MODES[MEMORY_MODES.index(config.train.memory) :]
    peaks = _peaks_gib(config, method, modes)
    mode = next((mode for mode in modes if peaks[mode] <= budget_gib), modes[-1])
    if peaks[mode] > budget_gib:
        return Estimate(mode, peaks[mode], None)
    train = replace(config.train, memory=mode)
    image_s = _image_s(replace(config, train=train), method)
    # a test image takes less than one of training, which has a backward pass
    images = size.train * train.epochs + size.test
    return Estimate(mode, peaks[mode], None if image_s is None else image_s * images)


def _peaks_gib(config: Config, method: Method, modes: tuple[str, ...]) -> dict[str, float]:
    """The predicted peak of a training step in each mode, by the rules of a GPU."""
    found = forecast.peaks_mib(
        method,
        precision=_precision(config),
        train=config.train,
        batches=[config.train.batch_size],
        size=config.input.size,
        modes=modes,
    )
    return {mode: parts[0]["allocated"] / MIB_OF_GIB for mode, parts in found.items()}


def _precision(config: Config) -> str:
    """Fp32 or bf16, which stands for both 16-bit formats."""
    name = Precision(config.train.precision, build.device(config.device)).name
    return "fp32" if name == "fp32" else "bf16"


def _image_s(config: Config, method: Method) -> float | None:
    """Seconds of an image in training, by a few steps on noise; None if they do not fit.

    Without steps they are those of a pass without gradients. Of a batch as in training, unless
    that takes long on a CPU: small networks take less time for an image of a large batch.
    """
    device = build.device(config.device)
    whole = config.train.batch_size
    few = min(whole, CPU_BATCH) if device.type == "cpu" else whole
    precision = Precision(config.train.precision, device)
    size = (3, config.input.size, config.input.size)
    try:
        free_unused(device)
        method.to(device)
        with unchanged(method, device), frozen_in_16_bit(method, precision):
            # recording CUDA graphs takes more steps than are measured here
            train = without_graphs(config.train)
            images = torch.randn(few, *size, device=device)
            image_s = _seconds(_work(method, precision, train, images), device) / few
            if few < whole and image_s * whole < ENOUGH_S:
                images = torch.randn(whole, *size, device=device)
                image_s = _seconds(_work(method, precision, train, images), device) / whole
            return image_s
    except torch.OutOfMemoryError:
        return None


def _work(
    method: Method, precision: Precision, train: Train, images: Tensor
) -> Callable[[], object]:
    """A training step on images (B, 3, H, W), or a pass if the method makes no steps."""
    if method.takes_steps:
        return TrainingStep(method, precision, train, images)
    method.eval()

    def look() -> None:
        with torch.no_grad(), precision.autocast():
            method(images)

    return look


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    # the first one creates the optimiser's state, or buffers of another size
    speed.seconds(work, 1, device)
    measured: list[float] = []
    while len(measured) < MOST_STEPS and sum(measured) < ENOUGH_S:
        measured.append(speed.seconds(work, 1, device))
    return sum(measured) / len(measured)
