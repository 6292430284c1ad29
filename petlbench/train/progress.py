"""Progress of a long loop: a bar on a terminal, a line every half minute in a log file."""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LOG_EVERY_S = 30.0
log = logging.getLogger("petlbench")


class Progress:
    """Counts epochs; `advance` takes the newest figure to show beside them."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.done = 0
        self.logged = self.started = time.monotonic()
        columns = (
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        self.bar = Bar(*columns, transient=True, console=console, disable=not sys.stderr.isatty())
        self.task = self.bar.add_task("train", total=epochs, note="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def advance(self, note: str) -> None:
        self.done += 1
        self.bar.update(self.task, completed=self.done, note=note)
        now = time.monotonic()
        if self.bar.disable and now - self.logged > LOG_EVERY_S:
            left_s = (now - self.started) / self.done * (self.epochs - self.done)
            log.info("epoch %d/%d %s, %.0f s left", self.done, self.epochs, note, left_s)
            self.logged = now
