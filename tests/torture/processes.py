"""Commands in forked processes: they start in no time, because torch is imported once."""

import contextlib
import os
import runpy
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from petlbench import interrupts

SLICE = 1 << 16  # bytes of output
PAUSE_S = 0.005


@dataclass(frozen=True, eq=False)
class Command:
    """python -m MODULE ARGUMENTS.

    setup: called in the process before the module, e.g. to shrink a data set.
    """

    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    setup: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class End:
    """How a command ended; code: as in a shell's $?, so 137 after SIGKILL."""

    code: int
    output: str
    seconds: float

    @property
    def traceback(self) -> bool:
        return "Traceback" in self.output


class Process:
    """A running command."""

    def __init__(self, command: Command, folder: Path) -> None:
        # a pipe: a file could not grow on a small disk
        self.output, writing = os.pipe()
        os.set_blocking(self.output, False)
        self.content = b""
        self.status: int | None = None
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _become(command, folder, writing)
        os.close(writing)

    def send(self, which: signal.Signals) -> None:
        os.kill(self.pid, which)

    @property
    def is_alive(self) -> bool:
        """Whether the command still runs."""
        if self.status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.content += self._printed()
            self.status = status if ended else None
        return self.status is None

    def wait(self) -> End:
        while self.is_alive:
            time.sleep(PAUSE_S)
        seconds = time.monotonic() - self.started
        os.close(self.output)
        assert self.status is not None
        code = os.waitstatus_to_exitcode(self.status)
        output = self.content.decode(errors="replace")
        return End(code if code >= 0 else 128 - code, output, seconds)

    def _printed(self) -> bytes:
        """What the command has printed since; it may have left children that can still print."""
        content = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.output, SLICE):
                content += part
        return content


def run(command: Command, folder: Path) -> End:
    """Run a command to its end."""
    return Process(command, folder).wait()


def stopped(command: Command, folder: Path, after_s: float, which: signal.Signals) -> End:
    """Run a command and send it a signal after a time."""
    process = Process(command, folder)
    time.sleep(after_s)
    process.send(which)
    return process.wait()


def _become(command: Command, folder: Path, output: int) -> None:
    """The rest of a forked process: it is the command, and ends as an interpreter would."""
    code = 1
    try:
        # as `python -m petlbench` does before it imports anything else
        for which in interrupts.SIGNALS:
            signal.signal(which, signal.SIG_DFL)
        interrupts.hear()
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        os.environ.update(command.environment)
        sys.argv = [command.module, *command.arguments]
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy finds the module imported already
        command.setup()
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        code = interrupts.end()
    except BaseException:
        traceback.print_exc()
    finally:
        # without suppress() the child would go on as its parent, and clean up in its place
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
