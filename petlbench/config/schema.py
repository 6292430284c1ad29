"""The schema of the configuration: one frozen dataclass per node, which checks its own ranges.

Hydra composes against these types, so a value of a wrong type and an unknown key are refused as
the configuration is made. The yaml files of conf/ hold the values. `method` and `dataset` name a
class or function by `_target_`; its signature is the schema of their other keys.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from typing import Any, TypeVar, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

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
from petlbench.config.mistakes import wrong_value
from petlbench.errors import UserError

NO_DECAY = ("biases", "one_dimensional", "none")
OPTIMIZERS = ("adamw", "sgd")
UPDATES = ("epoch", "step")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
INTERPOLATIONS = ("bicubic", "bilinear")
ASPECTS = ("squash", "keep")
POOLS = ("cls", "patch_mean_then_norm", "norm_then_mean", "attention")
HEAD_STARTS = ("small_normal", "torch")
FIT_ON = ("train", "trainval")
SELECT_ON = (None, "val", "tests")  # records of `tests` are marked as dishonest
TRACKING_MODES = ("disabled", "offline", "online")
COMPILE = (True, False, "reduce-overhead")
SPEED = ("auto", True, False)
HIGHEST_SEED = 2**32 - 1  # of NumPy
LONGEST_BATCH = 2**24  # images: above it a typing error, and an overflow of sizes in bytes

T = TypeVar("T")


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
        if self.cosine_from >= self.cosine_epochs:
            raise UserError(
                f"train.schedule.cosine_from is {self.cosine_from}; it must be below "
                f"train.schedule.cosine_epochs, {self.cosine_epochs}"
            )


@dataclass(frozen=True, kw_only=True)
class Train:
    """`train`: optimiser, loss and length of the training."""

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
    drop_last: bool
    precision: str
    schedule: Schedule

    def __post_init__(self) -> None:
        for name in ("lr", "head_lr", "weight_decay", "mixup", "cutmix"):
            at_least(f"train.{name}", getattr(self, name), 0)
        for name in ("momentum", "label_smoothing"):
            fraction(f"train.{name}", getattr(self, name))
        if len(self.betas) != 2:
            raise UserError(f"train.betas is {self.betas}; it must be a list of two numbers")
        for beta in self.betas:
            fraction("a number of train.betas", beta)
        choice("train.no_decay", self.no_decay, NO_DECAY)
        choice("train.optimizer", self.optimizer, OPTIMIZERS)
        choice("train.precision", self.precision, PRECISIONS)
        whole("train.epochs", self.epochs, low=1, high=1_000_000)
        whole("train.batch_size", self.batch_size, low=1, high=LONGEST_BATCH)
        if (self.mixup or self.cutmix) and (self.batch_size % 2 or not self.drop_last):
            raise UserError(
                f"train.{'mixup' if self.mixup else 'cutmix'} mixes pairs of images; set "
                "train.batch_size to an even number and train.drop_last=true"
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
                and value[0] <= value[1]
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
        whole("input.size", self.size, low=1, high=65_536)
        choice("input.interpolation", self.interpolation, INTERPOLATIONS)
        choice("input.aspect", self.aspect, ASPECTS)
        if self.resize is not None:
            whole("input.resize", self.resize, low=self.size, high=65_536)

    @property
    def is_plain(self) -> bool:
        """Whether an image is resized to the final square and nothing else."""
        return self.resize in (None, self.size) and self.aspect == "squash"


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """`backbone`: a timm network, its weights and how its tokens are pooled."""

    name: str
    pool: str
    mean: list[float]
    std: list[float]
    drop_path: float
    fused_attention: bool
    head_start: str
    checkpoint: str | None
    pretrained: bool

    def __post_init__(self) -> None:
        text("backbone.name", self.name)
        choice("backbone.pool", self.pool, POOLS)
        choice("backbone.head_start", self.head_start, HEAD_STARTS)
        fraction("backbone.drop_path", self.drop_path)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(map(is_number, values)):
                raise UserError(f"backbone.{name} is {values}; it must be a list of three numbers")
        if min(self.std) <= 0:
            raise UserError(f"backbone.std is {self.std}; its numbers must be above 0")
        if self.checkpoint is not None:
            text("backbone.checkpoint", self.checkpoint)


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """`protocol`: which split plays which role; a probe, which opens no data, has no `fit_on`.

    tests: "all" test sets of the task, or a list of splits.
    """

    name: str
    fit_on: str | None
    select_on: str | None
    every_epochs: int | None
    tests: Any

    def __post_init__(self) -> None:
        text("protocol.name", self.name)
        if self.fit_on is None and self.name != "probe":
            raise UserError(
                f"protocol.fit_on is null; protocol.name={self.name} needs one of "
                f"{', '.join(FIT_ON)}"
            )
        if self.fit_on is not None:
            choice("protocol.fit_on", self.fit_on, FIT_ON)
            if not self.tests or not (self.tests == "all" or isinstance(self.tests, list)):
                raise UserError(
                    f"protocol.tests is {self.tests}; it must be all or a list of splits such as "
                    "[test]"
                )
            for name in self.tests if isinstance(self.tests, list) else ():
                text("a split of protocol.tests", name)
        choice("protocol.select_on", self.select_on, SELECT_ON)
        if self.every_epochs is not None:
            whole("protocol.every_epochs", self.every_epochs, low=1)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """`recipe`: where the training values come from; `source` is None where nothing is published.

    changed: dotted names of the values that the command changed of a published recipe.
    """

    name: str
    source: str | None
    not_reproduced: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        text("recipe.name", self.name)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """`data`: where the data sets lie, and the processes that augment ("auto" or a number)."""

    root: str
    workers: Any

    def __post_init__(self) -> None:
        text("data.root", self.root)
        if self.workers != "auto":
            whole("data.workers", self.workers, low=0, high=1024)


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """`results`: the folder of the records."""

    root: str

    def __post_init__(self) -> None:
        text("results.root", self.root)


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """`wandb`: Weights & Biases."""

    mode: str
    project: str
    entity: str | None
    group: str | None
    tags: list[str]

    def __post_init__(self) -> None:
        choice("wandb.mode", self.mode, TRACKING_MODES)
        text("wandb.project", self.project)
        for name in ("entity", "group"):
            if getattr(self, name) is not None:
                text(f"wandb.{name}", getattr(self, name))
        for tag in self.tags:
            text("a text of wandb.tags", tag)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """`probe`: what a probe measures; `tasks` and `images` are of multi-task inference."""

    device: str
    warmup: int
    steps: int
    speed: Any
    batches: list[int]
    compile: Any
    repeats: int
    repeat_s: float
    budget_gib: float | None
    tasks: int | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        for name in ("warmup", "steps", "repeats"):
            whole(f"probe.{name}", getattr(self, name), low=1, high=1_000_000)
        for name in ("tasks", "images"):
            if getattr(self, name) is not None:
                whole(f"probe.{name}", getattr(self, name), low=1, high=LONGEST_BATCH)
        choice("probe.speed", self.speed, SPEED)
        choice("probe.compile", self.compile, COMPILE)
        if not self.batches:
            raise UserError(f"probe.batches is {self.batches}; it must be a list such as [1,16]")
        for batch in self.batches:
            whole("a number of probe.batches", batch, low=1, high=LONGEST_BATCH)
        positive("probe.repeat_s", self.repeat_s)
        if self.budget_gib is not None:
            positive("probe.budget_gib", self.budget_gib)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All keys that yaml files and the command line may set.

    family: heading of the method's rows in tables. report: how an experiment's records are shown.
    facts: what a method's yaml declares of it for the tests. None of them is part of a run.
    """

    job: str
    seed: int
    title: str
    device: str
    train: Train
    input: Input
    backbone: BackboneConfig
    dataset: dict[str, Any]
    method: dict[str, Any]
    protocol: ProtocolConfig
    recipe: RecipeConfig
    data: DataConfig
    results: ResultsConfig
    wandb: WandbConfig
    probe: ProbeConfig | None = None
    family: str | None = None
    report: Any = None
    facts: Any = None

    def __post_init__(self) -> None:
        whole("seed", self.seed, low=0, high=HIGHEST_SEED)
        for name in ("job", "title", "device"):
            text(name, getattr(self, name))


@dataclass(frozen=True)
class Target:
    """A class or function by its dotted path, and the keyword arguments to call it with."""

    path: str
    values: Mapping[str, object]

    def plain(self) -> dict[str, Any]:
        """As yaml writes it."""
        return {"_target_": self.path, "_partial_": True, **self.values}


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """`dataset`: a task, by the function that reads it.

    task: its name in records, as the option or the yaml gives it (`names_task`). draw: which of
    several training lists, 0 if there is one.
    """

    target: Target
    task: str
    names_task: bool
    title: str
    suite: str
    group: str
    classes: int
    draw: int

    def __post_init__(self) -> None:
        for name in ("task", "title", "suite", "group"):
            text(f"dataset.{name}", getattr(self, name))
        whole("dataset.classes", self.classes, low=1, high=10_000_000)
        whole("dataset.draw", self.draw, low=0)


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The cell of a table that a run fills."""

    method: str
    backbone: str
    task: str
    draw: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of one run."""

    factors: Factors
    job: str
    seed: int
    title: str
    device: str
    train: Train
    input: Input
    backbone: BackboneConfig
    dataset: DatasetConfig
    method: Target
    protocol: ProtocolConfig
    recipe: RecipeConfig
    data: DataConfig
    results: ResultsConfig
    wandb: WandbConfig
    probe: ProbeConfig | None

    @classmethod
    def shared_keys(cls) -> list[str]:
        """Keys that are the same in `Settings`."""
        own = {part.name for part in fields(cls)} - {"factors", "dataset", "method"}
        return [part.name for part in fields(Settings) if part.name in own]

    def plain(self) -> dict[str, Any]:
        """The configuration as nested dictionaries, as yaml and records write it."""
        plain = {part.name: _plain(getattr(self, part.name)) for part in fields(self)}
        dataset = self.dataset.target.plain()
        del dataset["_partial_"]  # readers are called at once; methods wait for their backbone
        if self.dataset.names_task:
            dataset["task"] = self.dataset.task
        return plain | {"method": self.method.plain(), "dataset": dataset}


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


@cache
def composable(schema: type) -> type:
    """The dataclass for OmegaConf: as `schema`, but not frozen, since composing sets values."""
    hints = get_type_hints(schema)
    parts: list[Any] = []
    for part in fields(schema):
        kind: Any = hints[part.name]
        if is_dataclass(kind):
            kind = composable(kind)  # type: ignore[arg-type]
        elif any(map(is_dataclass, getattr(kind, "__args__", ()))):
            kind = Any  # OmegaConf cannot set one key of a node that is null
        default = {} if part.default is MISSING else {"default": part.default}
        if part.default_factory is not MISSING:
            default = {"default_factory": part.default_factory}
        parts.append((part.name, kind, field(**default)))
    return make_dataclass(schema.__name__, parts, kw_only=True)


def build(schema: type[T], plain: Mapping[str, Any], where: str = "") -> T:
    """The frozen dataclass of plain values, which already have their types.

    where: dotted name of the node, for the message. Raises UserError for unknown, missing and
    wrong values.
    """
    hints = get_type_hints(schema)
    prefix = f"{where}." if where else ""
    known = [part.name for part in fields(schema)]  # type: ignore[arg-type]
    for key in plain:
        if key not in known:
            raise UserError(
                f"no key '{prefix}{key}'; {where or 'the root'} has {', '.join(known)}"
            )
    values: dict[str, Any] = {}
    for part in fields(schema):  # type: ignore[arg-type]
        name = f"{prefix}{part.name}"
        if part.name not in plain:
            if part.default is MISSING and part.default_factory is MISSING:
                raise UserError(f"{name} is missing; set {name}=VALUE")
            continue
        value = plain[part.name]
        nested = _nested(hints[part.name])
        if nested is not None and value is not None:
            value = typed(nested, value, name) if _is_optional(hints[part.name]) else value
            value = build(nested, value, name)
        values[part.name] = value
    return schema(**values)


def typed(schema: type, plain: Any, where: str) -> dict[str, Any]:
    """Plain values converted to the types of a schema, as composition does it."""
    if not isinstance(plain, Mapping):
        raise UserError(f"{where} is {plain}; it must map keys to values")
    for key in plain:
        if key not in (known := [part.name for part in fields(schema)]):
            raise UserError(f"no key '{where}.{key}'; {where} has {', '.join(known)}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(composable(schema)), dict(plain))
        found = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{where}.{wrong_value(error)}") from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items() if value != "???"}


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all values of a nested mapping, each with its value."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from flat(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], node


def _kinds(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__args__", None) or (hint,)


def _nested(hint: Any) -> type | None:
    """The dataclass in an annotation, if there is one."""
    return next(
        (kind for kind in _kinds(hint) if isinstance(kind, type) and is_dataclass(kind)), None
    )


def _is_optional(hint: Any) -> bool:
    return type(None) in _kinds(hint)
