"""Tasks of image files: each split is a list, decoded into the shared store when opened."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from petlbench.data import store
from petlbench.data.images import View
from petlbench.data.lists import Listed
from petlbench.data.task import Split, Task
from petlbench.errors import UserError

Lists = Mapping[str, Callable[[], Listed]]


def task(lists: Lists, *, view: View, cache: str, **about: Any) -> Task:
    """A task from the lists of its splits. about: what else `Task` holds."""
    where = cache_folder(cache, about["suite"])
    name = f"{about['suite']}/{about['name']}"
    return Task(**about, listed=lists, open=partial(_open, name, lists, view, where))


def cache_folder(cache: str, suite: str) -> Path:
    """Where the decoded images of a suite are kept."""
    return Path(cache).expanduser() / suite


def _open(name: str, lists: Lists, view: View, where: Path, which: str) -> Split:
    if which not in lists:
        raise UserError(
            f"{name} has no {which} images, but {', '.join(lists)}; choose another protocol"
        )
    return store.opened(lists[which](), view=view, cache=where)


def folder(root: Path, names: Iterable[str], what: str, advice: str) -> Path:
    """The first of several folders that is there: archives circulate under several names."""
    tried = list(names)
    for name in tried:
        if (root / name).is_dir():
            return root / name
    also = f" (nor {', '.join(tried[1:])})" if tried[1:] else ""
    raise UserError(
        f"{what} has no folder '{root / tried[0]}'{also}; {advice}, or set data.root or "
        "PETLBENCH_DATA to the folder that holds it; dataset=mini runs without any data"
    )
