"""The schema of the configuration: all keys, and the typed configuration of a run.

nodes.py and job_nodes.py have the nodes, each of which checks its own ranges.

Hydra composes against these types, so a value of a wrong type and an unknown key are refused as
the configuration is made. The yaml files of conf/ hold the values. `method` and `dataset` name a
class or function by `_target_`; its signature is the schema of their other keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from petlbench.checks import inner_path, text, whole
from petlbench.config.job_nodes import (
    DataConfig,
    ProbeConfig,
    ProtocolConfig,
    RecipeConfig,
    ResultsConfig,
    WandbConfig,
)
from petlbench.config.nodes import BackboneConfig, Input, Train

HIGHEST_SEED = 2**32 - 1  # of NumPy


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All keys that yaml files and the command line may set.

    family: heading of the method's rows in tables. baseline: reports name the methods that are
    below it. component: a part of another method, which method=all leaves out. report: how an
    experiment's records are shown. facts: what a method's yaml declares of it for the tests. tune:
    the values that its trials have under protocol=select, and select: how many
    (petlbench/config/selection.py). None of them is part of a run.
    """

    job: str
    seed: int
    title: str
    device: str
    train: Train
    input: Input
    backbone: BackboneConfig
    # open nodes: the signature of their `_target_` is the schema
    dataset: dict[str, Any]
    method: dict[str, Any]
    protocol: ProtocolConfig
    recipe: RecipeConfig
    data: DataConfig
    results: ResultsConfig
    wandb: WandbConfig
    probe: ProbeConfig | None = None
    family: str | None = None
    baseline: bool = False
    component: bool = False
    report: Any = None
    facts: Any = None
    tune: Any = None
    select: Any = None

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
        # `_partial_` as in conf/method/, since it is part of the identity of a run
        return {"_target_": self.path, "_partial_": True, **self.values}


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """`dataset`: a task, by the function that reads it.

    task: its name in records, as the option or the yaml gives it (`names_task`). draw: which of
    several training lists, or of several folds; 0 if there is one.
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
        for name in ("title", "group"):
            text(f"dataset.{name}", getattr(self, name))
        for name in ("task", "suite"):  # folders of records, and of decoded images
            inner_path(f"dataset.{name}", getattr(self, name))
        # readers join it to the folder of the data
        inner_path("dataset.name", self.target.values.get("name", self.suite))
        whole("dataset.classes", self.classes, low=1, high=10_000_000)
        key = "dataset.fold" if "fold" in self.target.values else "dataset.draw"
        whole(key, self.draw, low=0)


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
        # these three have another type here or no counterpart in `Settings`
        own = {part.name for part in fields(cls)} - {"factors", "dataset", "method"}
        return [part.name for part in fields(Settings) if part.name in own]

    def plain(self) -> dict[str, Any]:
        """The configuration as nested dictionaries, as yaml and records write it."""
        plain: dict[str, Any] = _plain(self)
        dataset = self.dataset.target.plain()
        del dataset["_partial_"]  # readers are called at once; methods wait for their backbone
        # only if the yaml has the key: another one would change the identity of the run
        if self.dataset.names_task:
            dataset["task"] = self.dataset.task
        return plain | {"method": self.method.plain(), "dataset": dataset}


def _plain(value: Any) -> Any:
    """A node as nested dictionaries; those of dataclasses.asdict take three times as long."""
    if names := _names(value.__class__):
        return {name: _plain(getattr(value, name)) for name in names}
    return list(value) if isinstance(value, list) else value


@cache
def _names(kind: type) -> list[str]:
    """The fields of a dataclass, none of other types."""
    return [part.name for part in fields(kind)] if is_dataclass(kind) else []
