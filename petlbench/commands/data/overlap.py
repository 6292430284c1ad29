"""Equal images in two splits, by their pixels."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

from petlbench.commands.data.figures import Facts, content
from petlbench.data.readers.lists import ImageList
from petlbench.data.task import Task
from petlbench.units import counted


def shared(task: Task, lists: Mapping[str, ImageList], facts: Facts) -> Iterator[str]:
    """A sentence for each pair of splits that share images and must not."""
    files = {split: _files(facts, images) for split, images in lists.items()}
    for first, second in combinations(lists, 2):
        # a split holds images of its parts; test sets may share some: nothing trains on them
        is_part = first in task.parts.get(second, ()) or second in task.parts.get(first, ())
        if is_part or {first, second} <= set(task.tests):
            continue
        both = [key for key in files[second] if key in files[first]]
        if both:
            pair = f"'{files[first][both[0]]}' and '{files[second][both[0]]}'"
            yield f"{second} shares {counted(len(both), 'image')} with {first}, for example {pair}"


def in_two_folds(folds: Sequence[ImageList], facts: Facts) -> list[str]:
    """A sentence if images are tested in one fold and equal ones in another; else none."""
    first: dict[str | Path, tuple[Path, int]] = {}
    pairs = []
    for number, images in enumerate(folds):
        for path in images.files:
            other, fold = first.setdefault(content(facts, path), (path, number))
            if fold != number:
                pairs.append(f"'{other}' and '{path}'")
    if not pairs:
        return []
    return [f"two folds share {counted(len(pairs), 'image')}, for example {pairs[0]}"]


def wrong_sums(task: Task, lists: Mapping[str, ImageList], facts: Facts) -> list[str]:
    """A sentence for each split that is not the sum of its parts."""
    pairs = partial(_pairs, facts)
    return [
        f"{whole} does not hold the same images and labels as {' and '.join(parts)} together"
        for whole, parts in task.parts.items()
        if {whole, *parts} <= lists.keys()
        and pairs(lists[whole]) != sum((pairs(lists[part]) for part in parts), Counter())
    ]


def _files(facts: Facts, images: ImageList) -> dict[str | Path, Path]:
    """The first file of each content of a list."""
    # reversed: of equal keys a dictionary keeps the last
    return {content(facts, path): path for path in reversed(images.files)}


def _pairs(facts: Facts, images: ImageList) -> Counter[tuple[str | Path, int]]:
    contents = (content(facts, path) for path in images.files)
    return Counter(zip(contents, images.labels, strict=True))
