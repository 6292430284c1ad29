"""Folders of a suite out of archives, whatever stands above them and whatever they are called."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from petlbench.commands.data import archive
from petlbench.commands.data.archive import Member
from petlbench.data.readers.layout import Folder
from petlbench.errors import UserError
from petlbench.progress import progress

CHUNK = 2**20  # bytes
Sources = dict[Path, dict[str, str]]  # of each archive: where its members go, by their names


def plan(
    needed: Sequence[Folder], archives: Sequence[Path], tasks: Collection[str]
) -> Iterator[tuple[Folder, int, partial[dict[str, str]]]]:
    """Each folder that the archives have, its bytes, and what unpacks it into a given folder.

    tasks: names of all tasks. One folder of another name is taken for the one that is needed,
    unless it is named like another task.
    """
    found: dict[str, Sources] = defaultdict(lambda: defaultdict(dict))
    sizes: dict[str, int] = defaultdict(int)
    taken: dict[tuple[str, str], Path] = {}
    for file in archives:
        members = archive.members(file)
        for member, folder, path in _placed(needed, members, file, tasks):
            if (folder.name, path) in taken:
                raise UserError(
                    f"'{path}' of {folder.name} is twice in {file} and "
                    f"{taken[folder.name, path]}; give one archive for it"
                )
            taken[folder.name, path] = file
            found[folder.name][file][member.name] = path
            sizes[folder.name] += member.size
    for folder in needed:
        if folder.name in found:
            yield folder, sizes[folder.name], partial(_unpack, found[folder.name])


def _placed(
    needed: Sequence[Folder], members: Sequence[Member], file: Path, tasks: Collection[str]
) -> Iterator[tuple[Member, Folder, str]]:
    """Members of the folders, each with its path below its folder."""
    by_name = {name: folder for folder in needed for name in folder.names}
    found = False
    for member in members:
        parts = PurePosixPath(member.path).parts
        place = next((i for i, part in enumerate(parts[:-1]) if part in by_name), None)
        if place is not None:
            found = True
            yield member, by_name[parts[place]], "/".join(parts[place + 1 :])
    if not found and len(needed) == 1:
        yield from _nameless(needed[0], members, file, tasks)


def _nameless(
    folder: Folder, members: Sequence[Member], file: Path, tasks: Collection[str]
) -> Iterator[tuple[Member, Folder, str]]:
    """The members of the one folder with the lists, where it has another name or none."""
    ends = tuple(f"/{name}" for name in folder.lists)
    lists = [f"/{member.path}" for member in members if f"/{member.path}".endswith(ends)]
    above = {path[: -len(end)] for path in lists for end in ends if path.endswith(end)}
    if len(above) > 1:
        raise UserError(
            f"'{file}' has several folders with lists ({', '.join(sorted(above))}) and none is "
            f"called {' or '.join(folder.names)}"
        )
    for start in above:
        if (name := PurePosixPath(start).name) in tasks:
            raise UserError(
                f"'{file}' has the task '{name}' and no folder {' or '.join(folder.names)}; "
                "prepare the task that it has"
            )
        for member in members:
            if f"/{member.path}".startswith(f"{start}/"):
                yield member, folder, member.path[len(start) :].lstrip("/")


def _unpack(sources: Mapping[Path, Mapping[str, str]], target: Path) -> dict[str, str]:
    """Write the members below `target`; sha256 of each file by its path."""
    digests: dict[str, str] = {}
    for file, paths in sources.items():
        members = archive.contents(file, paths)
        with archive.damage_told(file):
            for name, content in progress(members, target.name.strip("."), len(paths)):
                digests[paths[name]] = _write(content, target / paths[name])
    return digests


def _write(content: IO[bytes], path: Path) -> str:
    """Copy a stream into a file; its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as written:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            written.write(chunk)
    return digest.hexdigest()
