"""Nodes of the configuration that decide what is computed: training, images and backbone.

Each is a frozen dataclass that checks its own ranges; job_nodes.py has the others.
"""

from dataclasses import dataclass
from typing import Any

from petlbench.checks import (
    at_least,
    choice,
    fraction,
    is_number,
    positive,
    probability,
    text,
    whole,
)
from petlbench.errors import UserError

NO_DECAY = ("biases", "one_dimensional", "none")  # see petlbench/train/optim.py
OPTIMIZERS = ("adamw", "sgd")
UPDATES = ("epoch", "step")  # how often the learning rate changes
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MEMORY_MODES = ("fast", "lean", "min")  # see petlbench/train/recompute.py
CUDA_GRAPHS = "cuda_graphs"
COMPILE = (False, True, CUDA_GRAPHS)  # see petlbench/train/forward.py
INTERPOLATIONS = ("bicubic", "bilinear")
ASPECTS = ("squash", "keep")
LARGEST_SIDE = 65_536  # pixels of an image
# see petlbench/model/backbone.py
POOLS = ("cls", "patch_mean_then_norm", "norm_then_mean", "attention")
STORED = "stored"  # the head is the classifier of the checkpoint
WHOLE = "fp32"
WEIGHTS = (WHOLE, "bf16", "int8", "nf4")  # petlbench/layers/quantised.py has the formats
HEAD_STARTS = ("small_normal", "torch", "kaiming_fan_out", "zeros", STORED)
LONGEST_BATCH = 2**24  # images: above it a typing error, and an overflow of sizes in bytes


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`train.schedule`: warm-up and cosine, in epochs."""

    warmup_epochs: int
    warmup_lr: float
    min_lr: float
    cosine_epochs: int
    cosine_from: int
    lag_epochs: int
    update: str

    def __post_init__(self) -> None:
        for name in ("warmup_epochs", "cosine_epochs", "cosine_from", "lag_epochs"):
            whole(f"train.schedule.{name}", getattr(self, name), low=0)
        for name in ("warmup_lr", "min_lr"):
            at_least(f"train.schedule.{name}", getattr(self, name), 0)
        choice("train.schedule.update", self.update, UPDATES)


@dataclass(frozen=True, kw_only=True)
class Train:
    """`train`: optimiser, loss and length of the training.

    prefix_cache: auto, off (false), or the GiB that stored outputs of frozen blocks may take.
    compile: one of COMPILE.
    """

    lr: float
    head_lr: float
    weight_decay: float
    no_decay: str
    optimizer: str
    betas: list[float]
    momentum: float
    label_smoothing: float
    mixup: float
    cutmix: float
    epochs: int
    batch_size: int
    accumulate: int
    clip_grad: float | None
    checkpoint_every: int | None
    prefix_cache: Any
    drop_last: bool
    precision: str
    memory: str
    compile: Any
    schedule: Schedule

    def __post_init__(self) -> None:
        for name in ("lr", "head_lr", "weight_decay", "mixup", "cutmix"):
            at_least(f"train.{name}", getattr(self, name), 0)
        for name in ("momentum", "label_smoothing"):
            fraction(f"train.{name}", getattr(self, name))
        if len(self.betas) != 2:
            raise UserError(f"train.betas is {self.betas}; it must be a list of two numbers")
        for beta in self.betas:
            # below 1: Adam divides by 1 - beta^t, https://arxiv.org/abs/1412.6980, algorithm 1
            fraction("a number of train.betas", beta)
        choice("train.no_decay", self.no_decay, NO_DECAY)
        choice("train.optimizer", self.optimizer, OPTIMIZERS)
        choice("train.precision", self.precision, PRECISIONS)
        choice("train.memory", self.memory, MEMORY_MODES)
        choice("train.compile", self.compile, COMPILE)
        whole("train.epochs", self.epochs, low=1, high=1_000_000)
        schedule = self.schedule
        if schedule.cosine_from >= schedule.cosine_epochs:  # by default train.epochs
            raise UserError(
                f"train.schedule.cosine_from is {schedule.cosine_from}; it must be below "
                f"train.schedule.cosine_epochs, {schedule.cosine_epochs}"
            )
        whole("train.batch_size", self.batch_size, low=1, high=LONGEST_BATCH)
        whole("train.accumulate", self.accumulate, low=1, high=LONGEST_BATCH)
        # the gradients of a batch lie in memory that the replay of the next one overwrites
        if self.compile == CUDA_GRAPHS and self.accumulate > 1:
            raise UserError(
                f"train.accumulate is {self.accumulate} and train.compile={CUDA_GRAPHS} takes one "
                "batch a step; set train.accumulate=1 or train.compile=true"
            )
        if self.clip_grad is not None:
            positive("train.clip_grad", self.clip_grad)
        if self.checkpoint_every is not None:
            whole("train.checkpoint_every", self.checkpoint_every, low=1, high=1_000_000)
        _check_prefix_cache(self.prefix_cache)
        # timm's Mixup asserts an even batch, in which image i is mixed with image B - 1 - i
        if (self.mixup or self.cutmix) and (self.batch_size % 2 or not self.drop_last):
            raise UserError(
                f"train.{'mixup' if self.mixup else 'cutmix'} mixes pairs of images; set "
                "train.batch_size to an even number and train.drop_last=true"
            )

    @property
    def step_images(self) -> int:
        """Images whose gradients are averaged into one step."""
        return self.batch_size * self.accumulate


def _check_prefix_cache(value: object) -> None:
    # yaml reads `off` as false, the command line as a text
    if value in ("auto", "off") or value is False or (is_number(value) and value > 0):
        return
    raise UserError(
        f"train.prefix_cache is {value}; it must be auto, off, or a number of GiB above 0"
    )


@dataclass(frozen=True, kw_only=True)
class Augment:
    """`input.augment`: random changes of training images, by timm's transforms."""

    scale: list[float] | None
    ratio: list[float] | None
    interpolation: str
    hflip: float
    color_jitter: float | None
    auto_augment: str | None
    erase: float

    def __post_init__(self) -> None:
        for name in ("scale", "ratio"):
            value = getattr(self, name)
            if value is not None and not (
                isinstance(value, list)
                and len(value) == 2
                and all(is_number(part) and part > 0 for part in value)
                and value[0] <= value[1]  # timm only warns of swapped ends
            ):
                raise UserError(
                    f"input.augment.{name} is {value}; it must be null or a list [low, high] of "
                    "numbers above 0"
                )
        choice("input.augment.interpolation", self.interpolation, INTERPOLATIONS)
        probability("input.augment.hflip", self.hflip)
        probability("input.augment.erase", self.erase)
        if self.color_jitter is not None:
            at_least("input.augment.color_jitter", self.color_jitter, 0)
        if self.auto_augment is not None:
            # a policy in timm's notation, which timm itself checks: petlbench/data/augment.py
            text("input.augment.auto_augment", self.auto_augment)


@dataclass(frozen=True, kw_only=True)
class Input:
    """`input`: how an image becomes `size` x `size` pixels: resized, and its centre cut out.

    resize: pixels before the cut, None for `size`. aspect: `squash` resizes to a square, as the
    field does on its benchmarks; `keep` resizes the shorter side.
    """

    size: int
    interpolation: str
    resize: int | None
    aspect: str
    augment: Augment | None

    def __post_init__(self) -> None:
        whole("input.size", self.size, low=1, high=LARGEST_SIDE)
        choice("input.interpolation", self.interpolation, INTERPOLATIONS)
        choice("input.aspect", self.aspect, ASPECTS)
        if self.resize is not None:
            # a smaller image has no centre of `size` pixels
            whole("input.resize", self.resize, low=self.size, high=LARGEST_SIDE)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """`backbone`: a timm network, its weights and how its tokens are pooled."""

    name: str
    pool: str
    mean: list[float]
    std: list[float]
    drop_path: float
    fused_attention: bool
    weights: str
    head_start: str
    checkpoint: str | None
    pretrained: bool

    def __post_init__(self) -> None:
        text("backbone.name", self.name)
        choice("backbone.pool", self.pool, POOLS)
        choice("backbone.head_start", self.head_start, HEAD_STARTS)
        choice("backbone.weights", self.weights, WEIGHTS)
        if self.head_start == STORED and self.checkpoint is None and not self.pretrained:
            raise UserError(
                "backbone.head_start=stored takes the classifier of pre-trained weights, and "
                "backbone.pretrained is false; set backbone.head_start=small_normal"
            )
        # below 1: kept branches are divided by 1 - rate
        fraction("backbone.drop_path", self.drop_path)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(map(is_number, values)):
                raise UserError(f"backbone.{name} is {values}; it must be a list of three numbers")
        if min(self.std) <= 0:
            raise UserError(f"backbone.std is {self.std}; its numbers must be above 0")
        if self.checkpoint is not None:
            text("backbone.checkpoint", self.checkpoint)
