"""The folders and lists that a reader of files needs, described without reading anything.

The module of a reader may have a function `layout(values)`, which takes the values of its node of
the configuration: with it `python -m petlbench.data` reports what is missing, and prepares it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

DRAWS = 3  # of each training list in NOAH's few-shot and domain generalisation lists


@dataclass(frozen=True)
class RequiredList:
    """A list: its number of different images, and the folder that its paths start from."""

    images: int
    below: str


@dataclass(frozen=True)
class RequiredFolder:
    """The folder of a data set: its names in archives, the standard one first, and its lists.

    classes: labels of the lists are below this number. lists: by their path below the folder.
    """

    names: tuple[str, ...]
    classes: int
    lists: Mapping[str, RequiredList]

    @property
    def name(self) -> str:
        """Its name in the standard layout."""
        return self.names[0]


def merged(folders: Iterable[RequiredFolder]) -> list[RequiredFolder]:
    """Each folder once, with all lists that are required in it."""
    by_name: dict[str, RequiredFolder] = {}
    for folder in folders:
        # e.g. the five numbers of shots of a few-shot set are tasks of one folder
        lists = {**by_name[folder.name].lists} if folder.name in by_name else {}
        lists |= folder.lists
        by_name[folder.name] = RequiredFolder(folder.names, folder.classes, lists)
    return list(by_name.values())
