"""Whether the files of a suite are what its tasks need: all defects of each task, not the first.

A defect makes a run impossible or its score wrong; a note is worth knowing and belongs to the data
as they are (a training list of VTAB-1K does not have every class).
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

from petlbench.commands.data import sums
from petlbench.commands.data.examine import Seen, examine
from petlbench.commands.data.suites import Cell, cells
from petlbench.data.readers.lists import Flawed, Listed
from petlbench.data.task import Task
from petlbench.errors import UserError
from petlbench.progress import progress
from petlbench.system import threads

SIZE = 224  # pixels: no image is resized here, but a task wants to know
Found = dict[Path, Seen | str]  # of each file: what it is, or what is wrong with it
Report = dict[str, Any]


def verify(suite: str, root: Path | None, allow_duplicates: bool) -> Report:
    """A report on every task of a suite.

    allow_duplicates: images that two splits share are a note instead of a defect.
    """
    known: Found = {}
    with threads() as pool:
        tasks = [check(cell, known, pool, allow_duplicates) for cell in cells(suite, root, SIZE)]
    return {
        "command": "verify",
        "suite": suite,
        "ok": not any(task["defects"] for task in tasks),
        "tasks": tasks,
    }


def check(cell: Cell, known: Found, pool: ThreadPoolExecutor, allow_duplicates: bool) -> Report:
    """One task. known: files that were examined before, which is extended."""
    report: Report = {"task": cell.name, "defects": [], "notes": [], "splits": {}}
    try:
        task = cell.task()
    except UserError as error:
        return report | {"defects": [str(error)]}
    lists, defects = _lists(task)
    if not task.listed:
        report["splits"], defects = _opened(task)
    found = _examined(cell.name, lists.values(), known, pool)
    shared = list(_shared(task, lists, found))
    for split, listed in lists.items():
        report["splits"][split] = _split(listed, found, task.classes)
        defects += [line for line in map(found.get, _paths(listed)) if isinstance(line, str)]
        defects += _changed(listed, found)
        report["notes"] += _notes(split, listed, found, task)
    report["notes"] += _parted(task, lists, found) + (shared if allow_duplicates else [])
    report["notes"] += cell.remarks
    defects += [] if allow_duplicates else shared
    return report | {"defects": list(dict.fromkeys(defects))}


def _lists(task: Task) -> tuple[dict[str, Listed], list[str]]:
    """What can be read of each split, each list once, and all that is wrong with them."""
    lists: dict[str, Listed] = {}
    defects: list[str] = []
    for split, read in task.listed.items():
        try:
            listed = read()
        except Flawed as error:
            defects += error.flaws
            listed = error.listed
        except UserError as error:
            defects.append(str(error))
            continue
        if len(listed) and listed not in lists.values():
            lists[split] = listed
    return lists, defects


def _opened(task: Task) -> tuple[dict[str, Report], list[str]]:
    """Splits of a task without files; what its reader warns of is a defect."""
    said: list[str] = []
    log, handler = logging.getLogger("petlbench"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    propagates, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        opened = {split: task.open(split) for split in ("train", "val", *task.tests)}
    finally:
        log.removeHandler(handler)
        log.propagate = propagates
    splits = {
        split: {
            "images": len(opened[split]),
            "labels": _labels(opened[split].labels.tolist(), task.classes),
            "fingerprint": opened[split].fingerprint["sha256"],
        }
        for split in opened
    }
    return splits, list(dict.fromkeys(said))


def _paths(listed: Listed) -> list[Path]:
    return [listed.root / path for path in listed.paths]


def _examined(name: str, lists: Iterable[Listed], known: Found, pool: ThreadPoolExecutor) -> Found:
    """What is in each file; `known` is extended and returned."""
    wanted = {path: listed for listed in lists for path in _paths(listed) if path not in known}
    made = pool.map(_one, wanted, wanted.values())
    known |= zip(wanted, progress(made, name, len(wanted)), strict=True)
    return known


def _one(path: Path, listed: Listed) -> Seen | str:
    if not path.is_file():
        return f"image '{path}', which '{listed.file}' lists, is not there"
    try:
        return examine(path, upright=listed.upright)
    except UserError as error:
        return str(error)


def _changed(listed: Listed, found: Found) -> Iterator[str]:
    """Files that differ from the SHA256SUMS above them."""
    for folder, digests in sums.above(listed.root):
        now = {
            path: seen.sha256 for path in _paths(listed) if isinstance(seen := found[path], Seen)
        }
        if listed.file.is_file():
            now[listed.file] = sums.of(listed.file)
        for path, digest in now.items():
            below = os.path.relpath(path.absolute(), folder)
            if digests.get(below, digest) != digest:
                yield sums.changed(path)


def _split(listed: Listed, found: Found, classes: int) -> Report:
    """The figures of one split; its fingerprint is over the files' bytes and labels, in order."""
    pairs = [
        (found[path], label) for path, label in zip(_paths(listed), listed.labels, strict=True)
    ]
    seen = [one for one, _ in pairs if isinstance(one, Seen)]
    digest = sha256()
    for one, label in pairs:
        digest.update(f"{one.sha256 if isinstance(one, Seen) else None} {label}\n".encode())
    sizes = sorted({one.size for one in seen}, key=lambda size: size[0] * size[1])
    return {
        "list": str(listed.file),
        "images": len(listed),
        "labels": _labels(listed.labels, classes),
        "formats": dict(Counter(one.format for one in seen).most_common()),
        "lossy": sum(one.lossy for one in seen),
        "sizes": {"smallest": sizes[:1], "largest": sizes[-1:], "different": len(sizes)},
        "bytes": sum(one.weight for one in seen),
        "fingerprint": digest.hexdigest(),
    }


def _labels(labels: Sequence[int], classes: int) -> Report:
    missing = sorted(set(range(classes)) - set(labels))
    return {"lowest": min(labels), "highest": max(labels), "classes": classes, "missing": missing}


def _notes(split: str, listed: Listed, found: Found, task: Task) -> Iterator[str]:
    """What is particular about a split."""
    missing = _labels(listed.labels, task.classes)["missing"]
    if missing and split not in task.tests:
        some = ", ".join(map(str, missing[:5])) + (", ..." if missing[5:] else "")
        yield f"{split} lacks {len(missing)} of {task.classes} classes: {some}"
    repeated = len(listed) - len({_content(found, path) for path in _paths(listed)})
    if repeated:
        yield f"{split} repeats {repeated} of its {len(listed)} images"
    wrong = Counter(
        f"{path.suffix.lower()} files that hold {seen.format}"
        for path in _paths(listed)
        if isinstance(seen := found[path], Seen) and not _fits(path, seen)
    )
    yield from (f"{split} has {count} {what}" for what, count in wrong.items())
    if listed.file.is_file() and listed.file.suffix != ".csv":
        yield from _written(listed.file)


def _fits(path: Path, seen: Seen) -> bool:
    """Whether a suffix tells the truth about lossy and lossless."""
    return (path.suffix.lower() in (".jpg", ".jpeg")) == (seen.format in ("JPEG", "MPO"))


def _written(file: Path) -> Iterator[str]:
    """How a list is written where other programs stumble."""
    content = file.read_bytes()
    signs = {
        "CRLF line ends": b"\r\n" in content,
        "a byte order mark": content.startswith(b"\xef\xbb\xbf"),
        "several blanks in a row": b"  " in content,
    }
    if odd := [sign for sign, is_there in signs.items() if is_there]:
        yield f"'{file}' has {' and '.join(odd)}: read here, but not by every code base"


def _content(found: Found, path: Path) -> str | Path:
    """What two equal images share, in the same file or not."""
    seen = found[path]
    return seen.pixels if isinstance(seen, Seen) else path


def _contents(found: Found, listed: Listed) -> dict[str | Path, Path]:
    """A file for each content of a list."""
    return {_content(found, path): path for path in reversed(_paths(listed))}


def _shared(task: Task, lists: Mapping[str, Listed], found: Found) -> Iterator[str]:
    """Images that lie in two splits which must not share any."""
    contents = {split: _contents(found, listed) for split, listed in lists.items()}
    for first, second in combinations(lists, 2):
        is_part = first in task.parts.get(second, ()) or second in task.parts.get(first, ())
        if is_part or {first, second} <= set(task.tests):
            continue
        both = [content for content in contents[second] if content in contents[first]]
        if both:
            pair = f"'{contents[first][both[0]]}' and '{contents[second][both[0]]}'"
            yield f"{second} shares {len(both)} images with {first}, for example {pair}"


def _parted(task: Task, lists: Mapping[str, Listed], found: Found) -> list[str]:
    """Splits that are not the sum of the parts that they are said to have."""
    pairs = partial(_pairs, found)
    return [
        f"{whole} does not hold the same images and labels as {' and '.join(parts)} together"
        for whole, parts in task.parts.items()
        if {whole, *parts} <= lists.keys()
        and pairs(lists[whole]) != sum((pairs(lists[part]) for part in parts), Counter())
    ]


def _pairs(found: Found, listed: Listed) -> Counter[tuple[str | Path, int]]:
    contents = (_content(found, path) for path in _paths(listed))
    return Counter(zip(contents, listed.labels, strict=True))
