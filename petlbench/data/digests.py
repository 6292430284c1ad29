"""Digests of image files: each file is read once and remembered while it does not change.

What is remembered lies in the pixel cache, one file for each folder of images. It is only a cache:
a damaged file is made again, and one that cannot be written costs time at the next start.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petlbench.data.images import grey_peak
from petlbench.data.readers.lists import ImageList
from petlbench.errors import UserError
from petlbench.progress import progress
from petlbench.system import WriteError, file_status, threads, write_atomically

MANY = 1000  # files above which progress is shown
# A file that changes twice within a tick of the file system's clock keeps its dates.
SETTLED_NS = 100_000_000
# Size, times of change in ns (mtime, which a program may set back, and ctime) and inode.
Stamp = list[int]
CTIME = 2  # its place


@dataclass(frozen=True)
class FileDigest:
    """sha256: of the bytes. grey_peak: highest value of a grey image of 16 bits, else None."""

    sha256: str
    grey_peak: int | None


Known = dict[str, tuple[Stamp, FileDigest]]  # by the path relative to the folder of images
_KNOWN: dict[Path, Known] = {}


def of_files(root: Path, paths: Sequence[str], cache: Path) -> dict[str, FileDigest]:
    """The digest of each file below `root` that exists, by its path.

    cache: folder of the pixel cache. Raises UserError if a file cannot be read.
    """
    place = root.absolute()
    name = f"{root.name}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}.digests"
    known, now = _known(cache / name), time.time_ns()
    stamps = {path: stamp for path in dict.fromkeys(paths) if (stamp := _stamp(place / path))}
    fresh: dict[str, FileDigest] = {}
    new = [path for path, stamp in stamps.items() if known.get(path, (None,))[0] != stamp]
    if new:
        with threads() as pool:
            read = pool.map(_read, (place / path for path in new))
            shown = progress(read, f"hashing {root.name}", len(new)) if len(new) > MANY else read
            fresh = dict(zip(new, shown, strict=True))
        settled = [path for path in new if now - stamps[path][CTIME] > SETTLED_NS]
        known |= {path: (stamps[path], fresh[path]) for path in settled}
        if settled:
            _remember(cache / name, known)
    return {path: fresh[path] if path in fresh else known[path][1] for path in stamps}


def of_list(images: ImageList, cache: Path) -> str:
    """A digest of the paths, labels and contents of a list, in its order; of no folder.

    cache: folder of the pixel cache. Raises UserError for a missing or unreadable image.
    """
    digests = of_files(images.root, images.paths, cache)
    total = hashlib.sha256()
    for path, label in zip(images.paths, images.labels, strict=True):
        if path not in digests:
            raise UserError(
                f"image '{images.root / path}', which '{images.file}' lists, is missing; "
                "is the archive complete?"
            )
        total.update(os.fsencode(f"{path}\0{label}\0{digests[path].sha256}\n"))
    return total.hexdigest()


def _stamp(file: Path) -> Stamp | None:
    try:
        status = file_status(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"image '{file}' cannot be read: {error.strerror}") from error
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(file: Path) -> FileDigest:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"image '{file}' cannot be read: {error.strerror}") from error
    return FileDigest(hashlib.sha256(content).hexdigest(), grey_peak(content))


def _known(file: Path) -> Known:
    if file not in _KNOWN:
        _KNOWN[file] = _parsed(file)
    return _KNOWN[file]


def _parsed(file: Path) -> Known:
    try:
        content = json.loads(file.read_bytes())
        if content["sha256"] != _checksum(content["files"]):
            return {}
        return {
            path: (list(stamp), FileDigest(digest, peak))
            for path, (stamp, digest, peak) in content["files"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _remember(file: Path, known: Known) -> None:
    files = {
        path: [stamp, digest.sha256, digest.grey_peak] for path, (stamp, digest) in known.items()
    }
    # a cache on a read-only disk is still read
    with contextlib.suppress(WriteError):
        write_atomically(file, json.dumps({"sha256": _checksum(files), "files": files}).encode())


def _checksum(files: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
