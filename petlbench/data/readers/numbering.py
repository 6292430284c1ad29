"""Whether the lists of a task number its classes alike, where the paths of images name a class.

A list in another numbering has the right range and count of labels, and a perfect classifier
scores almost nothing on it. Paths name a class by a WordNet id (ImageNet and its test sets), or by
a folder for each class.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise

from petlbench.data.readers.lists import ImageList

WORDNET = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?!\d)")
Classes = dict[str, int]  # the label of each class that paths name


def conflicts(lists: Mapping[str, ImageList]) -> Iterator[str]:
    """A sentence for each list that contradicts its paths, and for each pair that disagrees."""
    by_list = {name: _classes(images) for name, images in lists.items()}
    for name, images in lists.items():
        yield from _contradictions(name, images, by_list[name])
    for one, other in combinations(by_list, 2):
        first, second = by_list[one], by_list[other]
        wrong = [key for key in first if second.get(key, first[key]) != first[key]]
        if wrong:
            key, files = wrong[0], f"'{lists[one].file}' and '{lists[other].file}'"
            yield (
                f"{one} and {other} number {len(wrong)} classes differently: '{key}' is label "
                f"{first[key]} in one and {second[key]} in the other of {files}; get the lists "
                "from one source"
            )
    ids = {key: label for classes in by_list.values() for key, label in _ids(classes).items()}
    counted = [name for name, classes in by_list.items() if _are_numbers(classes)]
    # folders are numbered as the sorted WordNet ids, as in ImageNetV2
    if counted and (disorder := _disorder(sorted(ids.items()))):
        yield (
            f"the labels of WordNet ids do not follow their order, as the folders of {counted[0]} "
            f"do: {disorder}; get the lists from one source"
        )


def _classes(images: ImageList) -> Classes:
    """The label of each WordNet id, else of each folder, if folders stand for classes."""
    ids = [WORDNET.search(path) for path in images.paths]
    if all(ids):
        keys = [found.group() for found in ids if found]
        return dict(zip(keys, images.labels, strict=True))
    folders = [path.rpartition("/")[0].rpartition("/")[2] for path in images.paths]
    pairs = set(zip(folders, images.labels, strict=True))
    # one label in each folder and one folder for each label; else folders are something else
    is_one_to_one = len(pairs) == len(set(folders)) == len(set(images.labels))
    return dict(sorted(pairs)) if is_one_to_one and len(pairs) > 1 else {}


def _contradictions(name: str, images: ImageList, classes: Classes) -> Iterator[str]:
    for path, label in zip(images.paths, images.labels, strict=True):
        found = WORDNET.search(path)
        if found and classes.get(found.group(), label) != label:
            yield (
                f"{name} gives '{found.group()}' two labels, {label} and "
                f"{classes[found.group()]}, in '{images.file}'"
            )
            return
    if _are_numbers(classes):
        numbered = sorted(classes.items(), key=lambda item: int(item[0]))
        if disorder := _disorder(numbered):
            yield (
                f"the labels of {name} do not follow the numbers of its folders in "
                f"'{images.file}': {disorder}"
            )


def _disorder(ordered: list[tuple[str, int]]) -> str:
    """The first two classes whose labels are not in the order of the classes; empty if none."""
    for (one, first), (other, second) in pairwise(ordered):
        if first >= second:
            return f"'{one}' is label {first} and '{other}' is label {second}"
    return ""


def _ids(classes: Classes) -> Classes:
    return {key: label for key, label in classes.items() if WORDNET.fullmatch(key)}


def _are_numbers(classes: Classes) -> bool:
    return bool(classes) and all(key.isascii() and key.isdecimal() for key in classes)
