"""The log file of a run, beside its record: epochs, warnings and tracebacks with their times."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from petlbench.errors import UserError

SUFFIX = ".log"
log = logging.getLogger("petlbench")
epochs = logging.getLogger("petlbench.epochs")  # lines for the file alone
epochs.propagate = False
epochs.setLevel(logging.INFO)


class _File(logging.FileHandler):
    """A file that is created, with its folder, by the first line."""

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Write what is logged in the block to a file, which a mistake of the user removes.

    A file of an earlier run is replaced.
    """
    form = logging.Formatter("%(asctime)sZ %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    handler = _File(path, mode="w", encoding="utf-8", delay=True)
    handler.setFormatter(form)
    for logger in (log, epochs):
        logger.addHandler(handler)
    try:
        yield
    except UserError:
        # without a line, the file is still that of an earlier run
        has_lines = handler.stream is not None
        handler.close()
        if has_lines:
            path.unlink(missing_ok=True)
        raise
    finally:
        for logger in (log, epochs):
            logger.removeHandler(handler)
        handler.close()
