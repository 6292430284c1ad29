"""Members of zip and tar archives that are not trusted: no path may leave its folder."""

import errno
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

# OSError: gzip and bz2 raise it for damaged data, then without a number
# ValueError, NotImplementedError, RuntimeError: odd names, numbers and methods of compression
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, LZMAError, OSError),
    *(ValueError, NotImplementedError, RuntimeError),
)
# images hardly shrink, lists to a tenth; an archive that grows more was made to fill a disk
LARGEST_RATIO = 200  # of unpacked to packed bytes
HARMLESS = 2**30  # unpacked bytes that are always allowed
# a control character could forge a line of a list or of SHA256SUMS; a surrogate is not UTF-8
NO_NAME = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
JUNK = re.compile(r"(^|/)(__MACOSX|\._[^/]*|\.DS_Store|Thumbs\.db)(/|$)")


@dataclass(frozen=True)
class Member:
    """A file in an archive. name: in the archive. path: without dots. size: in bytes."""

    name: str
    path: str
    size: int


def members(archive: Path) -> list[Member]:
    """All files in an archive, which is read to its end if it is a tar.

    Raises UserError for an archive that is cut off or damaged, and for unsafe members.
    """
    with damage_reported(archive):
        if _is_zip(archive):
            files = list(_bounded(archive, _zip_members(archive)))
        elif tarfile.is_tarfile(archive):
            files = list(_bounded(archive, _tar_members(archive)))
        else:
            raise UserError(
                f"'{archive}' is not a complete zip or tar archive; if the download was cut off, "
                "fetch it again"
            )
    return [member for member in files if not JUNK.search(member.path)]


def contents(archive: Path, names: Container[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """The named members with their bytes, in the archive's order; read each before the next.

    Use it inside `damage_reported`.
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
                # in its order: going back in a compressed tar decompresses it from the start
                if item.name in names and (file := tape.extractfile(item)):
                    yield item.name, file


@contextmanager
def damage_reported(archive: Path) -> Iterator[None]:
    """Turn errors of the archive into UserError; errors of the disk, which have a number, pass."""
    try:
        yield
    except UserError:  # a ValueError too
        raise
    except DAMAGE as error:
        # EINVAL: the archive points before its own start
        if getattr(error, "errno", None) not in (None, errno.EINVAL):
            raise
        raise UserError(
            f"'{archive}' is damaged or cut off ({' '.join(str(error).split())}); fetch it again"
        ) from error


def _is_zip(archive: Path) -> bool:
    """By the first bytes: a tar may end with a zip, whose end zipfile would find."""
    with archive.open("rb") as file:
        return file.read(2) == b"PK"


def _bounded(archive: Path, files: Iterator[Member]) -> Iterator[Member]:
    """The members, as long as their sizes are in proportion to the archive's."""
    limit = max(HARMLESS, LARGEST_RATIO * archive.stat().st_size)
    total = 0
    for member in files:
        total += member.size
        if total > limit:
            raise UserError(
                f"'{archive}' would unpack to more than {LARGEST_RATIO} times its size "
                f"({total / 1e9:.1f} GB at '{member.name}'); nothing was unpacked, get the "
                "archive from a source that you trust"
            )
        yield member


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            # the upper half is the mode on Unix, often 0 in archives from other systems
            mode = entry.external_attr >> 16
            special = bool(stat.S_IFMT(mode)) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
            path = _safe(archive, entry.filename, "not a plain file" if special else None)
            if entry.flag_bits & 1:  # PKWARE's APPNOTE, 4.4.4
                raise UserError(f"'{archive}' is encrypted; unpack it with its password")
            if not entry.is_dir():
                yield Member(entry.filename, path, entry.file_size)


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as tape:
        for item in tape:
            is_plain = item.isreg() or item.isdir()
            path = _safe(archive, item.name, None if is_plain else "a link or a device")
            if item.isreg():
                yield Member(item.name, path, item.size)
        # tarfile takes a file that was cut between two members as complete
        assert tape.fileobj is not None
        tape.fileobj.seek(tape.offset)
        if not tape.fileobj.read(1):  # a complete archive ends with zeros
            raise EOFError("it has no end")


def _safe(archive: Path, name: str, special: str | None) -> str:
    """The path of a member without dots. Raises UserError if it could write elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    # backslashes and drive letters are paths on Windows
    if not special and NO_NAME.search(name):
        special = "no name of a file"
    outside = name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name)
    if reason := special or ("a path that leaves the archive" if outside else None):
        raise UserError(
            f"member '{name}' of '{archive}' is {reason}; nothing was unpacked, get the archive "
            "from a source that you trust"
        )
    return "/".join(parts)
