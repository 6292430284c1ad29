"""python -m petlbench in a process of its own: started, awaited, stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from petlbench.run.claims import Claims
from petlbench.run.record import Store


def command(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command in a folder."""
    environment = os.environ | {"PETLBENCH_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "petlbench", *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear_interrupts,
    )


def hear_interrupts() -> None:
    """Restore Ctrl-C, which the processes of a background job in a shell ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def interrupt_when_two_run(root: Path) -> Iterator[None]:
    """Send Ctrl-C to this process as soon as two runs have a claim; assert that it arrives."""

    def wait_and_send() -> None:
        while len(Claims(root).owners()) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    # a shell that starts the tests in the background lets them ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=wait_and_send, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGINT, before)


def finished(root: Path, *arguments: str) -> tuple[int, str]:
    """Exit code, and standard output and error together, of the command."""
    process = command(root, *arguments)
    output, _ = process.communicate(timeout=180)
    return process.returncode, output


def records(root: Path) -> dict[str, int]:
    """The ids of finished runs, and the time their record was written, in ns."""
    store = Store(root / "results" / "runs")
    return {r["id"]: store.path(r).stat().st_mtime_ns for r in store.records()}


def wait_for(root: Path, count: int) -> None:
    """Wait until `count` runs are finished."""
    deadline = time.monotonic() + 120
    while len(records(root)) < count:
        assert time.monotonic() < deadline, "no record in two minutes"
        time.sleep(0.05)
