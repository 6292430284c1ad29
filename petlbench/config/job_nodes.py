"""Nodes of the configuration that say how a run goes: protocol, recipe, folders, W&B, probe.

Each is a frozen dataclass that checks its own ranges; nodes.py has those that decide what is
computed.
"""

from dataclasses import dataclass, field
from typing import Any

from petlbench.checks import choice, positive, text, whole
from petlbench.config.nodes import LONGEST_BATCH
from petlbench.errors import UserError

TRIAL, FINAL, PROBE = "trial", "final", "probe"  # protocols that the code knows by name
FIT_ON = ("train", "trainval")
SELECT_ON = (None, "val", "tests")  # records of `tests` are marked as dishonest
PREDICTIONS = ("auto", True, False)
TRACKING_MODES = ("disabled", "offline", "online")
COMPILE = (True, False, "reduce-overhead")  # True: torch.compile's default mode
SPEED = ("auto", True, False)


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
        if self.fit_on is None and self.name != PROBE:
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
            # which splits a task has is known only when its reader returns: petlbench/run/build.py
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
        # a bound against typing errors: each worker is a process
        if self.workers != "auto":
            whole("data.workers", self.workers, low=0, high=1024)


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """`results`: the folder of the records, and what lies beside them."""

    root: str
    predictions: Any

    def __post_init__(self) -> None:
        text("results.root", self.root)
        choice("results.predictions", self.predictions, PREDICTIONS)


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """`wandb`: Weights & Biases."""

    mode: str
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    artifacts: bool

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
