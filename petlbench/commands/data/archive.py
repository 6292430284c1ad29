"""Members of zip and tar archives, read with suspicion: no path may leave its folder."""

import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import IO

from petlbench.errors import UserError

DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, LZMAError, OSError)
JUNK = re.compile(r"(^|/)(__MACOSX|\._[^/]*|\.DS_Store|Thumbs\.db)(/|$)")


@dataclass(frozen=True)
class Member:
    """A file in an archive; size in bytes. name: as the archive has it. path: without dots."""

    name: str
    path: str
    size: int


def members(archive: Path) -> list[Member]:
    """All files in an archive, which is read to its end if it is a tar.

    Raises UserError for an archive that is cut off or damaged, and for unsafe members.
    """
    if not archive.is_file():
        raise UserError(f"no archive '{archive}'")
    with damage_told(archive):
        if _is_zip(archive):
            found = list(_zip_members(archive))
        elif tarfile.is_tarfile(archive):
            found = list(_tar_members(archive))
        else:
            raise UserError(
                f"'{archive}' is no whole zip or tar archive; if the download was cut off, "
                "fetch it again"
            )
    return [member for member in found if not JUNK.search(member.path)]


def contents(archive: Path, names: Container[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """The named members with their bytes, in the archive's order; each is read before the next.

    To be read inside `damage_told`.
    """
    if _is_zip(archive):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                if entry.filename in names and not entry.is_dir():
                    with packed.open(entry) as content:
                        yield entry.filename, content
    else:
        with tarfile.open(archive) as tape:
            for item in tape:
                if item.name in names and (found := tape.extractfile(item)):
                    yield item.name, found


@contextmanager
def damage_told(archive: Path) -> Iterator[None]:
    """What is wrong with an archive becomes a UserError; what is wrong with the disk does not."""
    try:
        yield
    except DAMAGE as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise UserError(
            f"'{archive}' is damaged or cut off ({' '.join(str(error).split())}); fetch it again"
        ) from error


def _is_zip(archive: Path) -> bool:
    """By its first bytes: a tar may end with a zip, whose end zipfile would find."""
    with archive.open("rb") as file:
        return file.read(2) == b"PK"


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            mode = entry.external_attr >> 16
            odd = bool(stat.S_IFMT(mode)) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
            path = _safe(archive, entry.filename, "no plain file" if odd else None)
            if entry.flag_bits & 1:
                raise UserError(f"'{archive}' is encrypted; unpack it with its password")
            if not entry.is_dir():
                yield Member(entry.filename, path, entry.file_size)


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as tape:
        for item in tape:
            odd = None if item.isreg() or item.isdir() else "a link or a device"
            path = _safe(archive, item.name, odd)
            if item.isreg():
                yield Member(item.name, path, item.size)
        assert tape.fileobj is not None
        tape.fileobj.seek(tape.offset)
        if not tape.fileobj.read(1):  # a whole archive ends with zeros
            raise EOFError("it has no end")


def _safe(archive: Path, name: str, odd: str | None) -> str:
    """A member's path without dots. Raises UserError where it could write elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name)
    if why := odd or ("a path that leaves the archive" if outside else None):
        raise UserError(
            f"member '{name}' of '{archive}' is {why}; nothing was unpacked, get the archive from "
            "a source that you trust"
        )
    return "/".join(parts)
