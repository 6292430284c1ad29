"""What a user should know of a tree of images: files that are ignored, classes without images."""

from collections import Counter, defaultdict
from collections.abc import Sequence, Sized
from pathlib import Path

from petlbench.data.readers.image_files import USUAL, foreign, images_below, is_image, visible
from petlbench.data.readers.tree import Image, Tree

SUFFIXES = 3  # named in a sentence


def ignored(tree: Tree) -> list[str]:
    """A sentence for each kind of file or folder below the root that is not part of the tree."""
    if not tree.root.is_dir():
        return _one_sided(tree)
    images = {tree.root / image.path for image in tree.images}
    others = [path for path in visible(tree.root) if path not in images]
    loose = [path for path in others if path.is_file() and is_image(path)]
    empty = [path for path in others if path.is_dir() and not any(images_below(path))]
    other = foreign(tree.root)
    kinds = (
        (
            loose,
            "image outside a class folder is",
            "images outside a class folder are",
            " ignored",
        ),
        (other, "file is", "files are", f" ignored ({_suffixes(other)}); images are {USUAL}"),
        (empty, "folder holds", "folders hold", " no image"),
    )
    sentences = [
        f"{_number(found, one, several)}{rest}, for example '{found[0]}'"
        for found, one, several, rest in kinds
        if found
    ]
    return sentences + _one_sided(tree) + _deep(tree)


def _number(found: Sized, one: str, several: str) -> str:
    return f"{len(found)} {one if len(found) == 1 else several}"


def _suffixes(paths: Sequence[Path]) -> str:
    """The most frequent suffixes: the photographs of some telephones are .heic."""
    counts = Counter(path.suffix.lower() or "no suffix" for path in paths)
    named = [f"{count} {suffix}" for suffix, count in counts.most_common(SUFFIXES)]
    return ", ".join([*named, *(["others"] if len(counts) > SUFFIXES else [])])


def _deep(tree: Tree) -> list[str]:
    """A sentence if images lie in folders inside those of their classes."""
    deep: dict[str, Image] = {}
    for image in tree.images:
        # CLASS/image, or SPLIT/CLASS/image
        if image.path.count("/") > (1 if image.split is None else 2):
            deep.setdefault(image.label, image)
    if not deep:
        return []
    example = Path(next(iter(deep.values())).path).parent
    return [
        _number(deep, "class has", "classes have")
        + f" images in inner folders, which are no classes, for example '{example}'"
    ]


def _one_sided(tree: Tree) -> list[str]:
    """A sentence if the user's own splits have different classes."""
    classes: dict[str, set[str]] = defaultdict(set)
    for image in tree.images:
        classes[image.split or "train"].add(image.label)
    return [
        f"{_number(missing, 'class has', 'classes have')} no image in {split}, for example "
        f"'{sorted(missing)[0]}'"
        for split, present in sorted(classes.items())
        if (missing := set(tree.names) - present)
    ]
