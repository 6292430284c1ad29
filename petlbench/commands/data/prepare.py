"""Data as they circulate become folders that the readers know; no image is encoded again.

A folder is filled beside its place and renamed when it is whole, with SHA256SUMS of its files. So
a folder that is there is finished, and what was interrupted begins again.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petlbench.commands.data import collect, sums, unpack
from petlbench.commands.data.suites import folders, task_names
from petlbench.data import pixels
from petlbench.data.readers import lists
from petlbench.data.readers.layout import Folder
from petlbench.errors import UserError
from petlbench.progress import say
from petlbench.system import file_lock

Report = dict[str, Any]
Fill = Callable[[Path], dict[str, str]]  # fills a folder; sha256 of each file by its path


@dataclass(frozen=True)
class Job:
    """A folder to make. bytes: what its files take on the disk. fill: puts them into a folder."""

    folder: Folder
    bytes: int
    fill: Fill


@dataclass
class Made:
    """What became of each folder."""

    rows: list[Report] = field(default_factory=list)

    def add(self, folder: Folder, state: str, **more: Any) -> None:
        reason = f": {more['reason']}" if "reason" in more else ""
        say(f"{folder.name}: {state}{reason}")
        self.rows.append({"folder": folder.name, "state": state, **more})


def from_archives(suite: str, archives: Sequence[Path], root: Path | None) -> Report:
    """Unpack what a suite needs; members of all archives together make a folder."""
    target, needed = folders(suite, root)
    jobs = [Job(*found) for found in unpack.plan(needed, archives, task_names())]
    return _report(suite, target, needed, jobs, ", ".join(map(str, archives)))


def from_lists(suite: str, given: Path, images: Path, root: Path | None) -> Report:
    """Lay out the images that lists name, from folders of images; linked where the disk can."""
    target, needed = folders(suite, root)
    jobs = [Job(*found) for found in collect.plan(needed, given, images, target)]
    return _report(suite, target, needed, jobs, f"'{given}'")


def _report(
    suite: str, target: Path, needed: Sequence[Folder], jobs: Sequence[Job], sources: str
) -> Report:
    if not jobs:
        names = ", ".join(folder.name for folder in needed)
        raise UserError(f"no folder of {suite} in {sources}; its folders are {names}")
    made = Made()
    with file_lock(target / ".prepare.lock", "put the data", "give another --root"):
        todo = [job for job in jobs if not _is_there(target, job.folder, made)]
        pixels.room(sum(job.bytes for job in todo), target, suite, "give another --root")
        for job in todo:
            _make(job, target, made)
    absent = [folder.name for folder in needed if _place(target, folder) is None]
    ok = all(row["state"] != "broken" for row in made.rows)
    return {
        "command": "prepare",
        "suite": suite,
        "ok": ok,
        "root": str(target),
        "folders": made.rows,
        "absent": absent,
    }


def _place(target: Path, folder: Folder) -> Path | None:
    """Where a folder is, under whatever of its names."""
    return next((target / name for name in folder.names if (target / name).exists()), None)


def _is_there(target: Path, folder: Folder, made: Made) -> bool:
    """Whether a folder is there already; one that was made here is checked by its SHA256SUMS."""
    there = _place(target, folder)
    if there is None:
        return False
    digests = sums.read(there)
    lacking = [name for name in folder.lists if name not in digests]
    if not digests:
        reason = f"'{there}' was there before; verify tells whether it is right"
        made.add(folder, "kept", reason=reason)
    elif wrong := sums.differing(there, digests):
        reason = f"{wrong[0]} ({len(wrong)} files); delete '{there}' and prepare it again"
        made.add(folder, "broken", reason=reason)
    elif lacking:
        reason = f"it has no '{lacking[0]}'; delete '{there}' and prepare the whole suite"
        made.add(folder, "broken", reason=reason)
    else:
        made.add(folder, "finished before", files=len(digests))
    return True


def _make(job: Job, target: Path, made: Made) -> None:
    part = target / f".{job.folder.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        digests = job.fill(part)
        _check(part, job.folder)
        sums.write(part, digests)
        os.rename(part, target / job.folder.name)
    except UserError as error:
        made.add(job.folder, "broken", reason=str(error).replace(str(part), job.folder.name))
    except OSError as error:
        reason = f"'{error.filename or target}' cannot be written: {error.strerror}"
        made.add(job.folder, "broken", reason=reason)
    else:
        made.add(job.folder, "made", files=len(digests), bytes=job.bytes)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check(part: Path, folder: Folder) -> None:
    """Refuse a folder with a list that is missing or wrong, or without images that it lists."""
    for name, wanted in folder.lists.items():
        roots = [part / wanted.below, part / "images", part]
        listed = lists.read(
            part / name, classes=folder.classes, distinct=wanted.images, roots=roots
        )
        lost = [path for path in listed.paths if not (listed.root / path).is_file()]
        if lost:
            raise UserError(
                f"{len(lost)} of {len(listed)} images of '{part / name}' are missing, for example "
                f"'{lost[0]}'"
            )
