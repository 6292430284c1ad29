"""Differences between operating systems, paths of the user, and atomic writing of files."""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from petlbench.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks; runs are then not protected from each other
    fcntl = None  # type: ignore[assignment]

MAX_THREADS = 32


class WriteError(UserError):
    """A file cannot be written, so later results could not be written either."""


def cpu_count() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset, Slurm and containers
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """A pool with one thread per processor; pending work is cancelled if the block ends early."""
    pool = ThreadPoolExecutor(min(cpu_count(), MAX_THREADS))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def user_path(name: str, value: str | Path) -> Path:
    """A path that the user gave, with ~ expanded.

    name: the option or key, for the message of the UserError if the path is empty, has a control
    character, is too long for the file system or starts with an unknown home folder.
    """
    text = str(value)
    if not text.strip() or any(ord(sign) < 32 for sign in text):
        raise UserError(f"{name} is {text!r}; it must be the path of a file or folder")
    try:
        path = Path(text).expanduser()
        path.exists()  # raises OSError for a name that is too long
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name} is '{text}': {reason}; give another path") from error
    return path


def file_status(path: Path) -> os.stat_result:
    """Size and date of a file. Raises OSError for a pipe or a device too: reading could hang."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, and no file", str(path))
    return status


def lock(file: IO[bytes] | IO[str], *, wait: bool) -> None:
    """Lock an open file until it is closed or the process ends.

    Raises BlockingIOError if another process holds the lock and `wait` is False.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextmanager
def file_lock(path: Path, purpose: str, advice: str) -> Iterator[None]:
    """Let one process at a time into the block; creates the folder of the lock file.

    purpose, advice: for the message of the UserError if the file cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(
            f"cannot {purpose}: '{path.parent}': {error.strerror}; {advice}"
        ) from error
    with file:
        lock(file, wait=True)
        yield


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, even after a kill.

    Creates the folder. Raises WriteError if the disk refuses.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder: a rename is atomic within one file system only.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # before the rename, which may otherwise reach the disk first
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise WriteError(
            f"cannot write '{path}' ({error.strerror}); free space or set results.root"
        ) from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _umask() -> int:
    """The permission bits that new files do not get; reading them requires setting them."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def package_version(name: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
