"""What a reader of files needs on the disk, known before anything is there.

A reader's module may have a function `layout(values)`, which takes its part of the configuration:
then `python -m petlbench.data` can say what is missing, and prepare it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

DRAWS = 3  # of each training list in NOAH's few-shot and domain generalisation lists


@dataclass(frozen=True)
class Wanted:
    """A list: how many different images it has, and below which folder they belong."""

    images: int
    below: str


@dataclass(frozen=True)
class Folder:
    """A data set's folder: the names it has in archives, ours first, and the lists in it.

    classes: labels of the lists are below this number. lists: by their path below the folder.
    """

    names: tuple[str, ...]
    classes: int
    lists: Mapping[str, Wanted]

    @property
    def name(self) -> str:
        """Its name in the standard layout."""
        return self.names[0]


def merged(folders: Iterable[Folder]) -> list[Folder]:
    """Each folder once, with all lists that are wanted in it."""
    found: dict[str, Folder] = {}
    for folder in folders:
        lists = {**found[folder.name].lists} if folder.name in found else {}
        found[folder.name] = Folder(folder.names, folder.classes, lists | dict(folder.lists))
    return list(found.values())
