"""The tasks of a suite, from the configuration: the one module here that reads it."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from petlbench.checks import is_whole, whole
from petlbench.config import compose, options, target
from petlbench.config.command_line import as_text
from petlbench.config.nodes import LARGEST_SIDE
from petlbench.config.schema import Config
from petlbench.data import configured
from petlbench.data.readers.layout import DRAWS, RequiredFolder, merged
from petlbench.data.task import Task
from petlbench.errors import UserError, unknown
from petlbench.system import user_path

Layout = Callable[[Mapping[str, object]], Iterable[RequiredFolder]]


class NoImages(Exception):
    """A task without splits, such as dataset=probe; no UserError, which a report would hold."""


@dataclass(frozen=True)
class TaskDraw:
    """A task with one draw of its training list, if it has several.

    name: of the task, with the number of the draw. task_name: of the task alone.
    """

    task_name: str
    name: str
    config: Config

    @property
    def values(self) -> Mapping[str, object]:
        """The values of the reader."""
        return self.config.dataset.target.values

    def task(self) -> Task:
        """The task. Raises UserError if its data are missing, and NoImages if it has no split."""
        task = configured.task(self.config)
        if not task.splits:
            raise NoImages(f"{self.task_name} has no images; choose a task such as mini/digits")
        return task

    @property
    def folds(self) -> list["TaskDraw"]:
        """The task with each of its folds; empty without folds."""
        count = self.values.get("folds")
        if "fold" not in self.values or not is_whole(count):
            return []
        return [
            replace(self, config=_numbered(self.config, "fold", number)) for number in range(count)
        ]

    @property
    def folders(self) -> tuple[RequiredFolder, ...]:
        """The folders that the task needs; empty if the module of its reader has no `layout`."""
        reader = target.find(self.config.dataset.target.path, f"{self.task_name}: _target_")
        # `layout` stands beside the reader, also in another package
        layout: Layout = getattr(sys.modules[reader.__module__], "layout", lambda _: ())
        return tuple(layout(self.values))


def names(suite: str) -> list[str]:
    """The tasks of a suite, or the one task of that name."""
    known = options.names("dataset")
    if suite not in known:
        raise unknown("task or suite", suite, known)
    return options.expand([suite], _suite_of)


def all_suites() -> list[str]:
    """Suites that are part of no other, then tasks outside them; no folders of the user."""
    every = [name for name in options.names("dataset") if not needs_root(name)]
    top = [name for name in every if "/" not in name]
    covered = set(options.expand(top, _suite_of))
    return top + [
        name for name in every if _suite_of(name) is None and name not in covered | {*top}
    ]


def task_names() -> set[str]:
    """The name of every task, without its suite's."""
    return {name.rpartition("/")[2] for name in options.names("dataset")}


def needs_root(name: str) -> bool:
    """Whether a task reads a folder that the user must name."""
    # ??? is OmegaConf's value that must be set
    return options.content("dataset", name).get("root") == "???"


def task_draws(
    suite: str, root: Path | None, size: int, values: Sequence[str] = ()
) -> Iterator[TaskDraw]:
    """The tasks of a suite with all their draws; images become `size` pixels wide.

    root: as PETLBENCH_DATA; for a task of the user's own images, their folder. values: overrides
    of Hydra for all of them.
    """
    whole("--size", size, low=1, high=LARGEST_SIDE)
    for name in names(suite):
        own = needs_root(name)
        if own and root is None:
            raise UserError(f"{name} reads a folder of your own; set --root FOLDER")
        key = "dataset.root" if own else "data.root"
        overrides = [f"{key}={as_text(str(root))}"] if root else []
        config = compose.single([f"dataset={name}", f"input.size={size}", *overrides, *values])
        yield from _draws(name, config)


def _draws(name: str, config: Config) -> Iterator[TaskDraw]:
    if "draw" not in config.dataset.target.values:
        yield TaskDraw(name, name, config)
        return
    for draw in range(DRAWS):
        yield TaskDraw(name, f"{name} draw {draw}", _numbered(config, "draw", draw))


def _numbered(config: Config, key: str, number: int) -> Config:
    """With another draw or fold."""
    reader = config.dataset.target
    reader = replace(reader, values={**reader.values, key: number})
    return replace(config, dataset=replace(config.dataset, target=reader, draw=number))


def required_folders(suite: str, root: Path | None) -> tuple[Path, list[RequiredFolder]]:
    """The folder of a suite, and the folders that its tasks need in it."""
    draws = list(task_draws(suite, root, size=1))  # any size: nothing is decoded
    folders = merged(folder for draw in draws for folder in draw.folders)
    if not folders:
        raise UserError(f"{suite} needs no lists and folders of its own; nothing to prepare")
    return user_path("--root", str(draws[0].values["root"])), folders


def _suite_of(name: str) -> list[str] | None:
    return options.listed("dataset", name)
