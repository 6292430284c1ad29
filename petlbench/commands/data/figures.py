"""The figures of a split, and notes on lists and files that are unusual."""

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from petlbench.commands.data.examine import ImageFacts
from petlbench.data.readers.lists import ImageList
from petlbench.data.task import Task
from petlbench.units import counted

Facts = dict[Path, ImageFacts | str]  # of each file: its facts, or why it cannot be decoded
Report = dict[str, Any]


def list_figures(images: ImageList, facts: Facts, classes: int) -> Report:
    """The figures of a list; its fingerprint is over the files' bytes and labels, in order."""
    decoded = [known for path in images.files if isinstance(known := facts[path], ImageFacts)]
    sizes = sorted({known.size for known in decoded}, key=lambda size: size[0] * size[1])
    return {
        "list": str(images.file),
        "images": len(images),
        "labels": labels(images.labels, classes),
        "formats": dict(Counter(known.format for known in decoded).most_common()),
        "lossy": sum(known.lossy for known in decoded),
        "sizes": {"smallest": sizes[:1], "largest": sizes[-1:], "different": len(sizes)},
        "bytes": sum(known.bytes for known in decoded),
        "fingerprint": _fingerprint(images, facts),
    }


def _fingerprint(images: ImageList, facts: Facts) -> str:
    digest = sha256()
    for path, label in zip(images.files, images.labels, strict=True):
        known = facts[path]
        content = known.sha256 if isinstance(known, ImageFacts) else None
        # no paths: two copies of a data set have one fingerprint
        digest.update(f"{content} {label}\n".encode())
    return digest.hexdigest()


def labels(values: Sequence[int], classes: int) -> Report:
    """The range of labels, and the classes that are missing; the split must not be empty."""
    missing = sorted(set(range(classes)) - set(values))
    return {"lowest": min(values), "highest": max(values), "classes": classes, "missing": missing}


def missing_classes(split: str, values: Sequence[int], task: Task) -> Iterator[str]:
    """A note if a split for training lacks classes; test sets may have fewer."""
    missing = labels(values, task.classes)["missing"]
    if missing and split not in task.tests:
        examples = ", ".join(map(str, missing[:5])) + (", ..." if missing[5:] else "")
        yield f"{split} lacks {len(missing)} of {task.classes} classes: {examples}"


def list_notes(split: str, images: ImageList, facts: Facts, task: Task) -> Iterator[str]:
    """What is unusual in a list and its files."""
    yield from missing_classes(split, images.labels, task)
    repeated = len(images) - len({content(facts, path) for path in images.files})
    if repeated:
        yield f"{split} repeats {repeated} of its {len(images)} images"
    if several := _two_classes(images, facts):
        pair = " and ".join(f"'{path}'" for path in several[0])
        images_twice = counted(len(several), "image")
        yield f"{split} has {images_twice} twice in different classes, for example {pair}"
    mislabelled = Counter(
        f"{path.suffix.lower()} files that hold {known.format}"
        for path in images.files
        if isinstance(known := facts[path], ImageFacts) and not _suffix_fits(path, known)
    )
    yield from (f"{split} has {count} {files}" for files, count in mislabelled.items())
    yield from _decoding_notes(split, images, facts)
    if images.file.is_file() and images.file.suffix != ".csv":
        yield from _text_notes(images.file)


def _two_classes(images: ImageList, facts: Facts) -> list[tuple[Path, Path]]:
    """The images that have another class than the first one with equal pixels, and that one."""
    first: dict[str | Path, tuple[Path, int]] = {}
    found = []
    for path, label in zip(images.files, images.labels, strict=True):
        other, known = first.setdefault(content(facts, path), (path, label))
        if label != known:
            found.append((other, path))
    return found


def _decoding_notes(split: str, images: ImageList, facts: Facts) -> Iterator[str]:
    """What 8-bit RGB cannot hold of the files, and what is shown instead."""
    known = [each for path in images.files if isinstance(each := facts[path], ImageFacts)]
    decoding = images.decoding
    if transparent := sum(each.transparent for each in known):
        behind = decoding.background
        shown = f"they are shown on {behind}" if behind else "their alpha is dropped"
        yield f"{split} has {transparent} images with transparent pixels: {shown}"
    if deep := sum(each.grey_peak is not None for each in known):
        yield (
            f"{split} has {deep} grey images of 16 bits: 0 to {decoding.grey_max} becomes 0 to 255"
        )


def content(facts: Facts, path: Path) -> str | Path:
    """A key that two equal images share, in the same file or not."""
    known = facts[path]
    # a file that cannot be decoded equals only itself
    return known.pixels if isinstance(known, ImageFacts) else path


def _suffix_fits(path: Path, known: ImageFacts) -> bool:
    """Whether the suffix of a file is right about lossy and lossless."""
    # MPO is PIL's name of a JPEG that holds several pictures
    return (path.suffix.lower() in (".jpg", ".jpeg")) == (known.format in ("JPEG", "MPO"))


def _text_notes(file: Path) -> Iterator[str]:
    """A note on the text of a list that other programs may read wrongly."""
    text = file.read_bytes()
    signs = {
        "CRLF line ends": b"\r\n" in text,
        "a byte order mark": text.startswith(b"\xef\xbb\xbf"),
        "several blanks in a row": b"  " in text,
    }
    if unusual := [sign for sign, is_present in signs.items() if is_present]:
        yield f"'{file}' has {' and '.join(unusual)}: read here, but not by every program"
