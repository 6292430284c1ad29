"""Folders of a suite from archives, below any folders and under any known name."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from petlbench.commands.data import archive
from petlbench.commands.data.archive import Member
from petlbench.data.readers.layout import RequiredFolder
from petlbench.errors import UserError
from petlbench.progress import progress

CHUNK = 2**20  # bytes
Targets = dict[Path, dict[str, str]]  # of each archive: paths to unpack to, by names of members


def plan(
    required: Sequence[RequiredFolder], archives: Sequence[Path], task_names: Collection[str]
) -> Iterator[tuple[RequiredFolder, int, partial[dict[str, str]]]]:
    """Each folder in the archives, its size in bytes, and a function that unpacks it.

    task_names: of all tasks. If one folder is required, one of another name is taken for it,
    unless that is the name of another task.
    """
    targets: dict[str, Targets] = defaultdict(lambda: defaultdict(dict))
    sizes: dict[str, int] = defaultdict(int)
    origins: dict[tuple[str, str], Path] = {}
    for file in archives:
        members = archive.members(file)
        for member, folder, path in _assign(required, members, file, task_names):
            if (folder.name, path) in origins:
                raise UserError(
                    f"'{path}' of {folder.name} is in '{file}' and in "
                    f"'{origins[folder.name, path]}'; give one archive for it"
                )
            origins[folder.name, path] = file
            targets[folder.name][file][member.name] = path
            sizes[folder.name] += member.size
    for folder in required:
        if folder.name in targets:
            yield folder, sizes[folder.name], partial(_unpack, targets[folder.name])


def _assign(
    required: Sequence[RequiredFolder],
    members: Sequence[Member],
    file: Path,
    task_names: Collection[str],
) -> Iterator[tuple[Member, RequiredFolder, str]]:
    """Members of the folders, each with its path below its folder."""
    by_name = {name: folder for folder in required for name in folder.names}
    any_named = False
    for member in members:
        parts = PurePosixPath(member.path).parts
        # only folders: a file may have the name of a data set
        depth = next((i for i, part in enumerate(parts[:-1]) if part in by_name), None)
        if depth is not None:
            any_named = True
            yield member, by_name[parts[depth]], "/".join(parts[depth + 1 :])
    # an archive with a known folder is not guessed at
    if not any_named and len(required) == 1:
        yield from _assign_by_lists(required[0], members, file, task_names)


def _assign_by_lists(
    folder: RequiredFolder, members: Sequence[Member], file: Path, task_names: Collection[str]
) -> Iterator[tuple[Member, RequiredFolder, str]]:
    """The members of the one folder that holds the lists, if it has another name or none."""
    ends = tuple(f"/{name}" for name in folder.lists)
    lists = [f"/{member.path}" for member in members if f"/{member.path}".endswith(ends)]
    starts = {path[: -len(end)] for path in lists for end in ends if path.endswith(end)}
    if len(starts) > 1:
        raise UserError(
            f"'{file}' has several folders with lists ({', '.join(sorted(starts))}) and none is "
            f"called {' or '.join(folder.names)}"
        )
    for start in starts:
        if (name := PurePosixPath(start).name) in task_names:
            raise UserError(
                f"'{file}' has the task '{name}' and no folder {' or '.join(folder.names)}; "
                f"prepare the task {name}"
            )
        for member in members:
            if f"/{member.path}".startswith(f"{start}/"):
                yield member, folder, member.path[len(start) :].lstrip("/")


def _unpack(targets: Mapping[Path, Mapping[str, str]], folder: Path) -> dict[str, str]:
    """Write the members below a folder; the SHA-256 of each file by its path."""
    digests: dict[str, str] = {}
    for file, paths in targets.items():
        members = archive.contents(file, paths)
        with archive.damage_reported(file):
            for name, content in progress(members, folder.name.strip("."), len(paths)):
                digests[paths[name]] = _write(content, folder / paths[name])
    return digests


def _write(content: IO[bytes], path: Path) -> str:
    """Copy a stream into a file; its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while chunk := content.read(CHUNK):
            # hashed on the way, so that no file is read again
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()
