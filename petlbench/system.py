"""Differences between operating systems, paths of the user, and atomic writing of files."""

import errno
import hashlib
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from petlbench.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks; runs are then not protected from each other
    fcntl = None  # type: ignore[assignment]

MAX_THREADS = 32
PROCESSORS = "PETLBENCH_PROCESSORS"  # that a worker of a sweep may use
SPINS = 1000  # of a waiting thread; its default is 300 000
TEMPORARY = ".petlbench-tmp-"  # how names of temporary files begin
# of this machine; others may not see its locks, which some network file systems keep to a machine
OWN_TEMPORARY = f"{TEMPORARY}{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-"
ABANDONED_S = 3600  # age of an abandoned temporary file whose locks this machine may not see


class WriteError(UserError):
    """A file cannot be written, so later results could not be written either."""


def cpu_count() -> int:
    """The number of processors that this process may use.

    In a worker of a sweep it is its share of them, from PETLBENCH_PROCESSORS.
    """
    if (share := os.environ.get(PROCESSORS, "")).isdecimal():
        return max(1, int(share))
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset, Slurm and containers
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def order_sums() -> None:
    """Let MKL add the terms of a matrix product in one order, whatever the number of threads.

    MKL_CBWR, which MKL reads at its first call, stays as it is if the user has set it. Source: MKL
    developer guide, "Conditional Numerical Reproducibility", strict mode.
    """
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return  # not Linux
    for needed, mode in (({"avx512bw", "avx512vl"}, "AVX512"), ({"avx2"}, "AVX2")):
        if needed <= set(flags):
            os.environ.setdefault("MKL_CBWR", f"{mode},STRICT")
            return


def wait_briefly() -> None:
    """Let the threads of an operation sleep soon while they wait for each other.

    On a machine that does other work, threads that spin keep from the processors the thread that
    they wait for. GOMP_SPINCOUNT, which libgomp reads when torch loads it, stays as it is if the
    user has set it or OMP_WAIT_POLICY. docs/speed.md has the times.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


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
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UserError(f"{name} is '{text}': {reason}; give another path") from error
    return path


def file_status(path: Path) -> os.stat_result:
    """Size and date of a file. Raises OSError for a pipe or a device too: reading could hang."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, and no file", str(path))
    return status


def lock(file: IO[bytes] | IO[str] | int, *, wait: bool) -> None:
    """Lock an open file (or a descriptor) until it is closed or the process ends.

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


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time into the block, where the file system can lock folders.

    Creates the folder. Raises WriteError if the disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error) from error
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # NFS locks only what is open for writing
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _refused(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f"cannot write '{path}' ({error.strerror}); free space, or name another folder"
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, even after a kill.

    Creates the folder. Raises WriteError if the disk refuses.
    """
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise _refused(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which replaces `path` when the block ends; an error leaves no file.

    Creates the folder, and removes from it what killed processes have left. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    # in the same folder: a rename is atomic within one file system only
    with temporary_file(path.parent) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())  # before the rename, which may otherwise reach the disk first
        os.chmod(file.name, 0o666 & ~_umask())  # mkstemp makes files that only their owner reads
        if fcntl is None:  # Windows renames no open file
            file.close()
        os.replace(file.name, path)


@contextmanager
def temporary_file(folder: Path) -> Iterator[IO[bytes]]:
    """A new hidden file, locked while the block lasts, and removed if it is still there then."""
    file = _new_temporary(folder)
    try:
        with file:
            yield file
    finally:
        Path(file.name).unlink(missing_ok=True)


def _new_temporary(folder: Path) -> IO[bytes]:
    while True:
        # kept by `delete`: it is renamed, or removed by `temporary_file`
        file = tempfile.NamedTemporaryFile(dir=folder, prefix=OWN_TEMPORARY, delete=False)  # noqa: SIM115
        with suppress(OSError):  # some network file systems have no locks
            lock(file, wait=True)
        # another process may have taken it for abandoned before it was locked
        if os.path.exists(file.name):
            return file
        file.close()


def check_writable(name: str, folder: Path) -> None:
    """Raise UserError if this user cannot write to a folder, which need not exist.

    name: the option. Creates nothing: an error would leave an empty folder behind.
    """
    try:
        existing = next(path for path in [folder, *folder.parents] if path.exists())
        with temporary_file(existing):
            pass
    except OSError as error:
        raise UserError(
            f"{name} '{folder}' cannot be written ({error.strerror}); "
            "give a folder with write permission"
        ) from error


def check_readable(name: str, folder: Path) -> None:
    """Raise UserError if a folder exists and this user may not list it; name: the option."""
    try:
        os.scandir(folder).close()
    except PermissionError as error:
        raise UserError(
            f"{name} '{folder}' cannot be read ({error.strerror}); give this user the permission, "
            "or name another folder"
        ) from error
    except OSError:
        return  # the caller says that it is no folder


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in a folder whose process was killed."""
    paths: list[Path] = []
    with suppress(OSError):  # another process may remove the folder just now
        paths += folder.glob(f"{TEMPORARY}*")
    for path in paths:
        with suppress(OSError):
            # opening a pipe would wait for its other end
            if path.is_file() and _is_old_enough(path):
                with path.open("rb") as file:
                    lock(file, wait=False)  # raises BlockingIOError while its process lives
                    path.unlink()


def _is_old_enough(path: Path) -> bool:
    # of another machine, or without locks, the age alone tells whether a process still writes
    locked = fcntl is not None and path.name.startswith(OWN_TEMPORARY)
    return locked or time.time() - path.stat().st_mtime > ABANDONED_S


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
