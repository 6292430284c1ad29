"""The splits of a task that a protocol trains on, selects on and scores. Imports no torch."""

import logging
from collections import Counter
from functools import cache

from petlbench.config.schema import Config
from petlbench.data import configured
from petlbench.data.readers import numbering
from petlbench.data.task import HELD_OUT, Split, Task, held_out
from petlbench.errors import UserError, unknown

TOO_FEW = (
    f"has fewer than {HELD_OUT} training images of each class, too few for a search to score on "
    "some of them"
)
log = logging.getLogger("petlbench")


def fit_on(config: Config) -> str:
    """The training split. Raises UserError for a probe."""
    if config.protocol.fit_on is None:
        raise UserError("protocol=probe trains nothing; choose another protocol")
    return config.protocol.fit_on


def halves(config: Config, opened: Task) -> tuple[Split, Split]:
    """The two parts of the training split that a search inside a method trains and scores on.

    They are train and val where the protocol selects on val.
    """
    name = fit_on(config)
    if name in opened.parts:
        first, second = opened.parts[name]
        return opened.open(first), opened.open(second)
    if config.protocol.select_on == "val":
        return opened.open(name), opened.open("val")
    # few-shot and DG lists have no parts, and a search sees val only if the protocol selects on it
    first_part, second_part = held_out(opened.open(name))
    if not len(second_part):
        raise UserError(
            f"{opened.suite}/{opened.name} {TOO_FEW}; protocol=best_on_val scores on val"
        )
    return first_part, second_part


def can_search(config: Config, opened: Task) -> bool:
    """Whether `halves` are there; nothing is decoded."""
    name = fit_on(config)
    if name in opened.parts or config.protocol.select_on == "val" or name not in opened.lists:
        return True
    return max(Counter(opened.lists[name]().labels).values()) >= HELD_OUT


def select_names(config: Config, opened: Task) -> tuple[str, ...]:
    """Splits that the protocol scores during training: none, val, or (dishonestly) the tests."""
    chosen = config.protocol.select_on
    return opened.tests if chosen == "tests" else (chosen,) if chosen else ()


def tests(config: Config, opened: Task) -> dict[str, Split]:
    """The splits to score at the end; opened here, after training, and not before."""
    return {name: opened.open(name) for name in scored_names(config, opened)}


def scored_names(config: Config, opened: Task) -> tuple[str, ...]:
    """The splits that the protocol scores at the end."""
    names = config.protocol.tests
    return opened.tests if names == "all" else tuple(names)


def data(config: Config) -> Task:
    """The task; refused if it lacks what the protocol needs. Nothing is decoded."""
    opened = configured.task(config)
    if config.protocol.fit_on is None:  # a probe opens no data
        return opened
    scored = scored_names(config, opened)
    for name in scored:
        if name not in (known := (*opened.tests, "val")):  # val: of protocol=trial
            raise unknown("split in protocol.tests", name, known)
    for split in _needed(config, opened):
        opened.check(split)
    return opened


def opened_names(config: Config, opened: Task) -> tuple[str, ...]:
    """The splits that a run may open: those of its protocol, and the parts for a search."""
    return tuple(dict.fromkeys((*_needed(config, opened), *opened.parts.get(fit_on(config), ()))))


def _needed(config: Config, opened: Task) -> tuple[str, ...]:
    """The splits of a protocol. A search opens parts of them, whose images these have too."""
    names = (*select_names(config, opened), *scored_names(config, opened))
    return tuple(dict.fromkeys((fit_on(config), *names)))


def prepared(config: Config) -> None:
    """`decoded`, and a line for what the reader leaves out.

    Raises UserError also for lists that number their classes differently.
    """
    opened = data(config)
    _check_numbering(config, opened)
    _decode(config, opened)
    if opened.splits and (remarks := opened.remarks()):
        _warn_once(f"{opened.suite}/{opened.name}: {'; '.join(remarks)}")


@cache
def _warn_once(line: str) -> None:
    """Log a warning unless this process has: the folds of a folder have the same one."""
    log.warning("%s", line)


def _check_numbering(config: Config, opened: Task) -> None:
    # a user's own folder names its classes itself, and a probe opens no data
    if opened.names is not None or config.protocol.fit_on is None:
        return
    needed = [name for name in _needed(config, opened) if name in opened.lists]
    conflict = next(numbering.conflicts({name: opened.lists[name]() for name in needed}), None)
    if conflict is not None:
        raise UserError(f"{opened.suite}/{opened.name}: {conflict}")


def decoded(config: Config) -> Task:
    """The task, with the images that the protocol needs decoded, but not scored.

    A broken one shows before hours of training. Raises UserError for it, and as `data` does.
    """
    opened = data(config)
    _decode(config, opened)
    return opened


def _decode(config: Config, opened: Task) -> None:
    for split in _needed(config, opened) if config.protocol.fit_on is not None else ():
        opened.decode(split)
