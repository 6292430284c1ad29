"""Tasks of image files: each split is a list, decoded into the pixel cache when it is opened."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from petlbench.checks import choice
from petlbench.data import digests, pixels
from petlbench.data.images import View
from petlbench.data.readers.lists import ImageList
from petlbench.data.task import Split, Task
from petlbench.errors import UserError
from petlbench.system import user_path

Lists = Mapping[str, Callable[[], ImageList]]


def task(
    lists: Lists,
    *,
    tests: tuple[str, ...],
    view: View,
    cache: str,
    on_bad_image: str = "error",  # a reader of another package may not pass it
    **fields: Any,
) -> Task:
    """A task from the lists of its splits.

    tests: names of the test splits among `lists`. cache: folder of the pixel cache, in which each
    suite has a folder. on_bad_image: see `pixels.open_list`. fields: the other fields of `Task`.
    """
    choice("dataset.on_bad_image", on_bad_image, pixels.ON_BAD_IMAGE)
    folder = cache_folder(cache, fields["suite"])
    # on demand: the lists of a test set are not read before training ends
    find = partial(_list, f"{fields['suite']}/{fields['name']}", lists)
    locate = partial(pixels.locate, view=view, cache=folder)

    def digest(split: str) -> str:
        return digests.of_list(find(split), folder)

    def check(split: str) -> None:
        # reads every image, which finds missing ones without decoding any
        digest(split)

    def opened(split: str) -> Split:
        return pixels.open_list(find(split), view=view, cache=folder, on_bad_image=on_bad_image)

    def decode(split: str) -> None:
        opened(split)

    return Task(
        **fields,
        tests=tests,
        train_splits=tuple(split for split in lists if split not in tests),
        lists=lists,
        open=opened,
        decode=decode,
        cached=locate,
        check=check,
        digest=digest,
        size=lambda split: len(find(split)),
    )


def cache_folder(cache: str, suite: str) -> Path:
    """The folder of a suite in the pixel cache."""
    return user_path("dataset.cache (PETLBENCH_CACHE)", cache) / suite


def _list(name: str, lists: Lists, split: str) -> ImageList:
    if split not in lists:
        raise UserError(
            f"{name} has no {split} images, only {', '.join(lists)}; choose another protocol"
        )
    images = lists[split]()
    if not len(images):
        raise UserError(
            f"{name} has no {split} images: '{images.file}' lists none; add some "
            "(dataset.val_share for your own images) or choose another protocol"
        )
    return images


def folder(root: Path, names: Iterable[str], task: str, advice: str) -> Path:
    """The first existing folder of several names, since archives circulate under several.

    task, advice: for the message of the UserError if none exists.
    """
    first, *others = names
    for name in (first, *others):
        if (root / name).is_dir():
            return root / name
    also = f" (nor {', '.join(others)})" if others else ""
    raise UserError(
        f"{task} has no folder '{root / first}'{also}; {advice}, or set data.root or "
        "PETLBENCH_DATA to the folder that holds it; dataset=mini runs without any data"
    )
