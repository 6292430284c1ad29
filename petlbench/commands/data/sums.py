"""SHA256SUMS of a folder, in the format of sha256sum: `HEX  path` on each line."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from petlbench.errors import UserError
from petlbench.progress import progress
from petlbench.system import sha256_of, threads

NAME = "SHA256SUMS"


def write(folder: Path, digests: Mapping[str, str]) -> None:
    """digests: SHA-256 of each file, by its path below the folder."""
    lines = (f"{digests[path]}  {path}\n" for path in sorted(digests))
    (folder / NAME).write_text("".join(lines), encoding="utf-8")


def read(folder: Path) -> dict[str, str]:
    """The digests in a folder's SHA256SUMS, by path; empty if there is no such file."""
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{folder / NAME}' cannot be read: {error}") from error
    # sha256sum marks files that it read in binary mode by *
    matches = (re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in text.split("\n"))
    return {match[2]: match[1] for match in matches if match}


def differences(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """A sentence for each file that is missing or has changed."""
    # hashlib releases the GIL, so that threads hash in parallel
    with threads() as pool:
        checked = pool.map(lambda path: _difference(folder / path, digests[path]), digests)
        lines = progress(checked, f"checking {folder.name}", len(digests))
        return [line for line in lines if line is not None]


def _difference(path: Path, digest: str) -> str | None:
    try:
        return None if sha256_of(path) == digest else mismatch(path)
    except OSError as error:
        return f"'{path}' cannot be read: {error.strerror}"


def mismatch(path: Path) -> str:
    """The sentence for a file whose digest is another."""
    return f"'{path}' differs from {NAME}; it was changed or damaged"


def above(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Each SHA256SUMS of a folder and of the two above it, with the folder that has it."""
    folder = folder.absolute()
    # paths may start two folders below the sums: imagenet/images/train
    for place in (folder, *list(folder.parents)[:2]):
        if digests := read(place):
            yield place, digests
