"""What a user should know of a tree of images: files that are ignored, classes without images."""

from collections import defaultdict
from pathlib import Path

from petlbench.data.readers.image_files import USUAL, foreign, images_below, is_image, visible
from petlbench.data.readers.tree import Image, Tree


def ignored(tree: Tree) -> list[str]:
    """A sentence for each kind of file or folder below the root that is not part of the tree."""
    if not tree.root.is_dir():
        return _one_sided(tree)
    images = {tree.root / image.path for image in tree.images}
    others = [path for path in visible(tree.root) if path not in images]
    loose = [path for path in others if path.is_file() and is_image(path)]
    empty = [path for path in others if path.is_dir() and not any(images_below(path))]
    kinds = (
        (loose, "images outside a class folder are ignored"),
        (foreign(tree.root), f"files are ignored; the suffix of an image is {USUAL}"),
        (empty, "folders hold no image"),
    )
    sentences = [
        f"{len(found)} {what}, for example '{found[0]}'" for found, what in kinds if found
    ]
    return sentences + _one_sided(tree) + _deep(tree)


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
        f"{len(deep)} classes have images in folders inside their own, which are no classes, for "
        f"example '{example}'"
    ]


def _one_sided(tree: Tree) -> list[str]:
    """A sentence if the user's own splits have different classes."""
    classes: dict[str, set[str]] = defaultdict(set)
    for image in tree.images:
        classes[image.split or "train"].add(image.label)
    return [
        f"{len(missing)} classes have no image in {split}, for example '{sorted(missing)[0]}'"
        for split, present in sorted(classes.items())
        if (missing := set(tree.names) - present)
    ]
