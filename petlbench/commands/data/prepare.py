"""`prepare`: data as they circulate become folders that the readers know, without re-encoding.

A folder is filled under another name and renamed when it is complete, with SHA256SUMS of its
files. So an existing folder is complete, and one that was interrupted is made again.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petlbench.commands.data import collect, sums, unpack
from petlbench.commands.data.suites import required_folders, task_names
from petlbench.data import pixels
from petlbench.data.readers import lists
from petlbench.data.readers.layout import RequiredFolder
from petlbench.errors import UserError
from petlbench.progress import say
from petlbench.system import file_lock

Report = dict[str, Any]
ADVICE = "give another --root"


@dataclass(frozen=True)
class FolderJob:
    """A folder to make. bytes: of its files. fill: writes them; their SHA-256 by their paths."""

    folder: RequiredFolder
    bytes: int
    fill: Callable[[Path], dict[str, str]]


@dataclass
class FolderStates:
    """The state of each folder, printed as it is added."""

    rows: list[Report] = field(default_factory=list)

    def add(self, folder: RequiredFolder, state: str, **more: Any) -> None:
        """Print and keep a row; `reason` and figures of the folder may follow the state."""
        reason = f": {more['reason']}" if "reason" in more else ""
        say(f"{folder.name}: {state}{reason}")
        self.rows.append({"folder": folder.name, "state": state, **more})


def from_archives(suite: str, archives: Sequence[Path], root: Path | None) -> Report:
    """Unpack the folders of a suite; members of several archives may make one folder."""
    for file in archives:
        if not file.is_file():
            raise UserError(f"no archive '{file}'")
    target, required = required_folders(suite, root)
    jobs = [FolderJob(*parts) for parts in unpack.plan(required, archives, task_names())]
    return _run(suite, target, required, jobs, ", ".join(f"'{file}'" for file in archives))


def from_lists(suite: str, lists_root: Path, images_root: Path, root: Path | None) -> Report:
    """Make the folders of a suite from lists and folders of images; by links if possible."""
    for option, folder in (("--lists", lists_root), ("--images", images_root)):
        if not folder.is_dir():
            raise UserError(f"{option}: no folder '{folder}'")
    target, required = required_folders(suite, root)
    jobs = [FolderJob(*parts) for parts in collect.plan(required, lists_root, images_root, target)]
    return _run(suite, target, required, jobs, f"'{lists_root}'")


def _run(
    suite: str,
    target: Path,
    required: Sequence[RequiredFolder],
    jobs: Sequence[FolderJob],
    sources: str,
) -> Report:
    if not jobs:
        names = ", ".join(folder.name for folder in required)
        raise UserError(f"no folder of {suite} in {sources}; its folders are {names}")
    states = FolderStates()
    # two commands would fill the same .part folder
    with file_lock(target / ".prepare.lock", "write the data", ADVICE):
        todo = [job for job in jobs if not _exists(target, job.folder, states)]
        # for all folders, before the first one is filled
        pixels.require_space(sum(job.bytes for job in todo), target, suite, ADVICE)
        for job in todo:
            _make(job, target, states)
    absent = [folder.name for folder in required if _place(target, folder) is None]
    return {
        "command": "prepare",
        "suite": suite,
        "ok": all(row["state"] != "broken" for row in states.rows),
        "root": str(target),
        "folders": states.rows,
        "absent": absent,
    }


def _place(target: Path, folder: RequiredFolder) -> Path | None:
    """The existing folder, under any of its names."""
    return next((target / name for name in folder.names if (target / name).exists()), None)


def _exists(target: Path, folder: RequiredFolder, states: FolderStates) -> bool:
    """Whether a folder exists; one with SHA256SUMS is checked against it."""
    place = _place(target, folder)
    if place is None:
        return False
    digests = sums.read(place)
    # a folder that was prepared for one task has only the lists of that task
    missing = [name for name in folder.lists if name not in digests]
    if not digests:
        reason = f"'{place}' existed before; verify checks it"
        states.add(folder, "kept", reason=reason)
    elif wrong := sums.differences(place, digests):
        reason = f"{wrong[0]} ({len(wrong)} files); delete '{place}' and prepare it again"
        states.add(folder, "broken", reason=reason)
    elif missing:
        reason = f"it has no '{missing[0]}'; delete '{place}' and prepare the whole suite"
        states.add(folder, "broken", reason=reason)
    else:
        states.add(folder, "finished before", files=len(digests))
    return True


def _make(job: FolderJob, target: Path, states: FolderStates) -> None:
    # beside its target, since renaming is atomic only within a file system
    part = target / f".{job.folder.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        digests = job.fill(part)
        # before the rename: an existing folder is taken as complete
        _check(part, job.folder)
        sums.write(part, digests)
        os.rename(part, target / job.folder.name)
    except UserError as error:
        states.add(job.folder, "broken", reason=str(error).replace(str(part), job.folder.name))
    except OSError as error:
        reason = f"'{error.filename or target}' cannot be written: {error.strerror}"
        states.add(job.folder, "broken", reason=reason)
    else:
        states.add(job.folder, "made", files=len(digests), bytes=job.bytes)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check(part: Path, folder: RequiredFolder) -> None:
    """Raise UserError if a list is missing or wrong, or if an image of a list is missing."""
    for name, required in folder.lists.items():
        # paths start from the standard folder, from images/, or from the data set (heekhero/DTL)
        roots = [part / required.below, part / "images", part]
        images = lists.read(
            part / name, classes=folder.classes, distinct=required.images, roots=roots
        )
        missing = [path for path in images.paths if not (images.root / path).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(images)} images of '{part / name}' are missing, for "
                f"example '{missing[0]}'"
            )
