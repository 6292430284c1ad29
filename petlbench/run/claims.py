"""Claims: which process does a run, so that sweeps over one results.root do each run once.

A claim is the file `.claims/ID` below the root. Its owner rewrites it every BEAT_S seconds. Who
finds it unchanged for FREE_S seconds of its own monotonic clock may take it, so the clocks of two
machines need not agree; the claim of a process of this machine is free as soon as it is gone.
"""

import contextlib
import hashlib
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from petlbench.checks import is_whole
from petlbench.system import OWN_TEMPORARY, TEMPORARY, WriteError, lock

FOLDER = ".claims"
REMOVAL = f"{TEMPORARY}removal-"  # how names of claims to remove a claim begin
BEAT_S = 10.0
FREE_S = 60.0
MOST_PID = 2**31 - 1  # os.kill takes no larger one
LENGTH = 8  # digits of the number of beats: a claim must not change its size


@dataclass(frozen=True)
class Owner:
    """Who has a claim. since: UTC. system: names the kernel and PID namespace, None if unknown."""

    host: str
    pid: int
    since: str
    system: str | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended; False if only its beats can tell."""
        if self.system is None or self.system != _system():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


class Claim:
    """A claim of this process, which a thread renews until it is released. A context manager."""

    def __init__(self, path: Path, file: int, content: bytes) -> None:
        self.path, self._file, self._content = path, file, content
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the run free."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            # another process has it, if this one was asleep for a minute
            if os.stat(self.path).st_ino == os.fstat(self._file).st_ino:
                self.path.unlink()
        os.close(self._file)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()  # fails while it has other claims

    def _beat(self) -> None:
        number = 0
        while not self._released.wait(BEAT_S):
            number += 1
            # in place: a new file could replace the claim of the next owner
            with contextlib.suppress(OSError):
                _write(self._file, self._content + _beats(number))


class Claims:
    """The claims below a root. One object must live while it watches those of others."""

    def __init__(self, root: str | Path) -> None:
        self.folder = Path(root).expanduser() / FOLDER
        self._watched: dict[str, tuple[bytes, float]] = {}

    def take(self, identifier: str) -> Claim | None:
        """The claim of a run, or None while another process has it.

        Raises WriteError if the folder cannot be written.
        """
        path = self.folder / identifier
        try:
            if (claim := self._new(path)) is not None:
                return claim
            return self._new(path) if self._freed(path) else None
        except OSError as error:
            raise WriteError(
                f"cannot claim '{path}' ({error.strerror}); free space or set results.root"
            ) from error

    def is_free(self, identifier: str) -> bool:
        """Whether a run has no claim, or had one whose owner has died; that one is removed."""
        try:
            return self._freed(self.folder / identifier)
        except (OSError, WriteError):
            return True  # who takes it says what is wrong with the folder

    def owners(self) -> dict[str, Owner]:
        """The owners of claimed runs by their identity, without those that are gone."""
        found = {}
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.iterdir()):
                owner = _owner(_content(path))
                if not path.name.startswith(".") and owner and not owner.is_gone:
                    found[path.name] = owner
        return found

    def _new(self, path: Path) -> Claim | None:
        """A claim that no process had; None if there is one."""
        me = Owner(socket.gethostname(), os.getpid(), _now(), _system())
        # unlike any other, so that two of the same process differ
        content = json.dumps(asdict(me) | {"key": secrets.token_hex(8)}).encode() + b"\n"
        while True:
            try:
                file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
                break
            except FileExistsError:
                return None
            except FileNotFoundError:  # also if another process removes the folder just now
                self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            lock(file, wait=False)  # what a killed process leaves under a temporary name is free
        try:
            _write(file, content + _beats(0))
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        return Claim(path, file, content)

    def _freed(self, path: Path) -> bool:
        """Whether a claim was free and is removed."""
        content = _content(path)
        if content is None:
            return True
        if not self._is_free(path.name, content):
            return False
        # One process at a time removes it. A second one, which has read the same, would take the
        # claim of the next owner away, and a third one could put its own there before it is back.
        removal = self.take(f"{REMOVAL}{hashlib.sha256(content).hexdigest()}")
        if removal is None:
            return False
        with removal:
            return _content(path) == content and _removed(path, content)

    def _is_free(self, identifier: str, content: bytes) -> bool:
        owner = _owner(content)
        if owner is not None and owner.is_gone:
            return True
        before, since = self._watched.get(identifier, (None, 0.0))
        if before != content:
            self._watched[identifier] = (content, time.monotonic())
            return False
        return time.monotonic() - since > FREE_S


def _removed(path: Path, content: bytes) -> bool:
    """Whether a claim had this content and is removed."""
    aside = path.with_name(f"{OWN_TEMPORARY}{secrets.token_hex(8)}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    is_same = _content(aside) == content
    if not is_same:  # its owner, who was asleep, has renewed or released it just now
        with contextlib.suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    return is_same


def _write(file: int, content: bytes) -> None:
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, content)
    os.fsync(file)  # other machines see what has left this one


def _beats(number: int) -> bytes:
    return f"{number:0{LENGTH}d}\n".encode()


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _owner(content: bytes | None) -> Owner | None:
    """Who wrote a claim; None for a file that is none."""
    try:
        values: Any = json.loads((content or b"").partition(b"\n")[0])
        system = values["system"]
        if not is_whole(values["pid"]) or not 0 < values["pid"] <= MOST_PID:
            return None
        if not isinstance(system, str | None):
            return None
        return Owner(str(values["host"]), values["pid"], str(values["since"]), system)
    except (ValueError, TypeError, KeyError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _system() -> str | None:
    """What two processes share if they see each other's PIDs."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None  # not Linux
