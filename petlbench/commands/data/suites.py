"""Tasks by the name of a suite, through the configuration, with their folders and readers."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from petlbench.checks import whole
from petlbench.config import compose, options
from petlbench.config.schema import Config, Target
from petlbench.data.readers.layout import DRAWS, Folder, merged
from petlbench.data.task import Task
from petlbench.errors import UserError, unknown


class Imageless(UserError):
    """A task that has no images, so that there is nothing to do for it."""


@dataclass(frozen=True)
class Cell:
    """One task with one draw of its training list, where it has several."""

    name: str
    config: Config

    @property
    def values(self) -> dict[str, Any]:
        """What its reader is given."""
        return dict(self.config.dataset.target.values)

    def task(self) -> Task:
        """Raises UserError where its data are missing."""
        from petlbench.run import build  # imports torch, so after cheap mistakes

        return build.task(self.config)

    @property
    def folders(self) -> tuple[Folder, ...]:
        """What it needs on the disk, as far as its reader tells."""
        return tuple(self._told("layout"))

    @property
    def remarks(self) -> list[str]:
        """What is worth knowing of its folder, as far as its reader tells."""
        return list(self._told("remarks"))

    def _told(self, what: str) -> Iterable[Any]:
        """The answer of a function beside the reader, if it has one."""
        module = import_module(self.config.dataset.target.path.rpartition(".")[0])
        tell: Callable[[Any], Iterable[Any]] = getattr(module, what, lambda _: ())
        return tell(self.values)


def names(suite: str) -> list[str]:
    """The tasks of a suite, or the one task of that name."""
    known = options.names("dataset")
    if suite not in known:
        raise unknown("task or suite", suite, known)
    return options.expand([suite], partial(options.listed, "dataset"))


def task_names() -> set[str]:
    """Every task's own name, without its suite's."""
    return {name.rpartition("/")[2] for name in options.names("dataset")}


def of_user(name: str) -> bool:
    """Whether a task reads a folder that its user must name."""
    return options.content("dataset", name).get("root") == "???"


def cells(suite: str, root: Path | None, size: int) -> Iterator[Cell]:
    """The tasks of a suite with all their draws; images become `size` pixels wide.

    root: what PETLBENCH_DATA names else; for a task of the user's own images, their folder.
    Raises Imageless for a task without images.
    """
    whole("--size", size, low=1)
    for name in names(suite):
        own = of_user(name)
        if own and root is None:
            raise UserError(f"{name} is a folder of your own; name it with --root FOLDER")
        where = f"{'dataset' if own else 'data'}.root={_quoted(str(root))}"
        config = compose.single(
            [f"dataset={name}", f"input.size={size}", *([where] if root else [])]
        )
        dataset = config.dataset
        values = dataset.target.values
        if "cache" not in values:
            raise Imageless(f"{name} has no images")
        for draw in range(DRAWS) if "draw" in values else [None]:
            changed = {} if draw is None else {"draw": draw}
            drawn = name if draw is None else f"{name} draw {draw}"
            target = Target(dataset.target.path, {**values, **changed})
            yield Cell(drawn, replace(config, dataset=replace(dataset, target=target)))


def folders(suite: str, root: Path | None) -> tuple[Path, list[Folder]]:
    """The folder of a suite, and the folders that its tasks need in it."""
    found = list(cells(suite, root, size=1))
    needed = merged(folder for cell in found for folder in cell.folders)
    if not needed:
        raise UserError(f"{suite} needs no lists and folders of its own; nothing to prepare")
    return Path(found[0].values["root"]).expanduser(), needed


def _quoted(text: str) -> str:
    """A text as a value of Hydra's command line, which takes no escapes but before a quote."""
    doubled = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" * bool(found[2])), text)
    return f"'{doubled}'"
