"""Work on many files: several threads, one process at a time, and a bar on a terminal."""

import fcntl
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from petlbench.errors import UserError

MOST_THREADS = 32
LOG_EVERY_S = 30.0
T = TypeVar("T")


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """A thread for each processor; what has not begun is dropped where the block ends early."""
    pool = ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), MOST_THREADS))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def alone(lock: Path, purpose: str, advice: str) -> Iterator[None]:
    """One process at a time; a killed one lets go. Makes the lock's folder."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(
            f"no place to {purpose}: '{lock.parent}': {error.strerror}; {advice}"
        ) from error
    with file:
        yield


def told(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, with a bar on a terminal, or a line every half minute in a log file."""
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    shown = track(
        items, description=what, total=total, transient=True, console=console, disable=hidden
    )
    logged = time.monotonic()
    for number, item in enumerate(shown):
        yield item
        if hidden and time.monotonic() - logged > LOG_EVERY_S:
            logged = time.monotonic()
            say(f"{what}: {number + 1} of {total}")


def say(line: str) -> None:
    """A line beside the results: these are for programs too."""
    print(line, file=sys.stderr)
