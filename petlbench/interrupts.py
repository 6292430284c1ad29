"""Ctrl-C and SIGTERM end a command in one line, with the exit code that a shell would report.

Imports nothing that is slow: it is the first module of a command.
"""

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from types import FrameType, TracebackType
from typing import ParamSpec

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LINE = "interrupted"
_heard: list[int] = []  # the signals that this process got
_deferred: list[bool] = []  # an entry for each block of `deferred` at work
_owner: list[int] = []  # the process that hears them; its children have them too

P = ParamSpec("P")


def hear_in_commands() -> None:
    """Hear both signals if this process is starting `python -m petlbench...`."""
    # Python has -m there until it has found the module
    if sys.argv[:1] != ["-m"] or threading.current_thread() is not threading.main_thread():
        return
    module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    if module.partition(".")[0] == "petlbench":
        hear()


def one_line(main: Callable[P, int]) -> Callable[P, int]:
    """A command whose interruption is one line and an exit status.

    It ends quietly if the reader of its output, for example `head`, has stopped reading.
    """

    @wraps(main)
    def guarded(*arguments: P.args, **options: P.kwargs) -> int:
        code = 0
        try:
            with reader_may_end():
                code = main(*arguments, **options)
        except KeyboardInterrupt:
            return end()
        return code

    return guarded


@contextlib.contextmanager
def reader_may_end() -> Iterator[None]:
    """Leave the block quietly if the reader of stdout, for example `head`, has stopped reading."""
    try:
        yield
        sys.stdout.flush()  # here, where the error can be caught
    except BrokenPipeError:
        # Python flushes stdout at exit and would fail again (its docs, signal: note on SIGPIPE)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Raise an interruption at the end of the block: callbacks of weakref would swallow it."""
    _deferred.append(True)
    before = len(_heard)
    try:
        yield
    finally:
        _deferred.pop()
    if len(_heard) > before:
        raise KeyboardInterrupt


def end(line: str = LINE) -> int:
    """Print the line of an interruption; returns its exit status, 128 + the number of a signal."""
    print(line, file=sys.stderr)
    return 128 + (_heard or [signal.SIGINT])[-1]


def hear() -> None:
    """Hear both signals in this process, which must be a command, and let it end at once."""
    # Python would search for cycles among all that was imported, which takes up to two seconds
    atexit.register(gc.freeze)
    _owner[:] = [os.getpid()]
    for number in SIGNALS:
        # a shell lets the jobs in its background ignore Ctrl-C
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.excepthook = _hook


def _interrupt(number: int, frame: FrameType | None) -> None:
    if os.getpid() not in _owner:  # a worker process: its parent prints the line
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    # torch's handler raises an error for each of its workers that the same signal has ended
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _heard.append(number)
    # extension modules answer an exception during their import with errors of their own, and who
    # interrupts twice does not want to wait
    if len(_heard) > 1 or _is_importing(frame):
        _leave()
    if not _deferred:
        raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave() -> None:
    with contextlib.suppress(Exception):  # a stream may be at work itself
        sys.stdout.flush()
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{LINE}\n".encode())
    os._exit(128 + _heard[-1])


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        raise SystemExit(end())
    sys.__excepthook__(kind, error, trace)
