"""Tasks of image files: each split is a list, decoded into the shared store when opened."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from petlbench.data import pixels
from petlbench.data.images import View
from petlbench.data.readers.lists import Listed
from petlbench.data.task import Task
from petlbench.errors import UserError

Lists = Mapping[str, Callable[[], Listed]]


def task(lists: Lists, *, view: View, cache: str, **about: Any) -> Task:
    """A task from the lists of its splits. about: what else `Task` holds."""
    where = cache_folder(cache, about["suite"])
    name = f"{about['suite']}/{about['name']}"
    find = partial(_found, name, lists)
    return Task(
        **about,
        listed=lists,
        open=lambda split: pixels.opened(find(split), view=view, cache=where),
        look=lambda split: _look(find(split), view, where),
    )


def cache_folder(cache: str, suite: str) -> Path:
    """Where the decoded images of a suite are kept."""
    return Path(cache).expanduser() / suite


def _found(name: str, lists: Lists, split: str) -> Listed:
    if split not in lists:
        raise UserError(
            f"{name} has no {split} images, but {', '.join(lists)}; choose another protocol"
        )
    listed = lists[split]()
    if not len(listed):
        raise UserError(
            f"{name} has no {split} images: '{listed.file}' lists none; give it some "
            "(dataset.val_share for your own images) or choose another protocol"
        )
    return listed


def _look(listed: Listed, view: View, where: Path) -> None:
    pixels.place(listed, view=view, cache=where)


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
