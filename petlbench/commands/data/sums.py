"""SHA256SUMS of a folder, in the format of sha256sum: `HEX  path` a line."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from petlbench.errors import UserError
from petlbench.progress import progress
from petlbench.system import threads

NAME = "SHA256SUMS"


def write(folder: Path, digests: Mapping[str, str]) -> None:
    """digests: sha256 in hex of each file, by its path below the folder."""
    lines = (f"{digests[path]}  {path}\n" for path in sorted(digests))
    (folder / NAME).write_text("".join(lines), encoding="utf-8")


def read(folder: Path) -> dict[str, str]:
    """What a folder's SHA256SUMS says of each path; empty where there is none."""
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{folder / NAME}' cannot be read: {error}") from error
    found = (re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in text.split("\n"))
    return {match[2]: match[1] for match in found if match}


def of(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """A line for each file that is not there or has changed."""
    with threads() as pool:
        lines = pool.map(lambda path: _difference(folder / path, digests[path]), digests)
        return _kept(progress(lines, f"checking {folder.name}", len(digests)))


def _kept(lines: Iterable[str | None]) -> list[str]:
    return [line for line in lines if line is not None]


def _difference(path: Path, digest: str) -> str | None:
    try:
        return None if of(path) == digest else changed(path)
    except OSError as error:
        return f"'{path}' cannot be read: {error.strerror}"


def changed(path: Path) -> str:
    """What to say of a file that is not what it was."""
    return f"'{path}' is not what {NAME} says; it was changed or damaged"


def above(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """SHA256SUMS of a folder or of the two above it, whichever is there."""
    folder = folder.absolute()
    for place in (folder, *list(folder.parents)[:2]):
        if digests := read(place):
            yield place, digests
