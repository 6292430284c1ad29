"""python -m petlbench in this process: its exit code and what it prints on stderr."""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from petlbench import __main__ as command
from petlbench import console

# the others take what Hydra takes, and share the help of `petlbench run`
OWN_HELP = sorted(console.COMMANDS.keys() - {"run", "sweep", "probe", "multitask"})


def run(folder: Path, *arguments: str, main: Callable[[], None] = command.main) -> tuple[int, str]:
    """Exit code, and standard output and error together, of the command in a folder."""
    output = io.StringIO()
    with _as_process(folder, arguments), redirect_stderr(output), redirect_stdout(output):
        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
    return code, output.getvalue()


@contextmanager
def _as_process(folder: Path, arguments: tuple[str, ...]) -> Iterator[None]:
    """What a process of its own would have: a folder, arguments, logging, Hydra's state."""
    before = sys.argv, Path.cwd(), dict(os.environ)
    root, log = logging.getLogger(), logging.getLogger("petlbench")
    handlers, levels = list(root.handlers), (root.level, log.level)
    GlobalHydra.instance().clear()
    sys.argv = ["petlbench", *arguments]
    os.chdir(folder)
    try:
        yield
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
        os.environ.clear()
        os.environ.update(before[2])
        GlobalHydra.instance().clear()
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        log.setLevel(levels[1])
