"""Commands in forked processes: they start in no time, because torch is imported once."""

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

OUTPUT = ".output"  # what a command prints; not counted as a file of it


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

    def __init__(self, command: Command, folder: Path, name: str = "") -> None:
        # beside the folder, whose name may be too long for a suffix
        self.output = folder.parent / f"{(name or folder.name)[:100]}{OUTPUT}"
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _become(command, folder, self.output)

    def send(self, which: signal.Signals) -> None:
        os.kill(self.pid, which)

    def wait(self) -> End:
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        text = self.output.read_text(errors="replace")
        return End(code if code >= 0 else 128 - code, text, time.monotonic() - self.started)


def run(command: Command, folder: Path) -> End:
    """Run a command to its end."""
    return Process(command, folder).wait()


def stopped(command: Command, folder: Path, after_s: float, which: signal.Signals) -> End:
    """Run a command and send it a signal after a time."""
    process = Process(command, folder)
    time.sleep(after_s)
    process.send(which)
    return process.wait()


def _become(command: Command, folder: Path, output: Path) -> None:
    """The rest of a forked process: it is the command, and ends as an interpreter would."""
    code = 1
    try:
        for which in (signal.SIGINT, signal.SIGTERM):
            default = signal.default_int_handler if which is signal.SIGINT else signal.SIG_DFL
            signal.signal(which, default)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
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
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
