"""Progress of long work: a bar on a terminal, a line every half minute in a log file."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn, track
from rich.progress import Progress as Bar

LOG_EVERY_S = 30.0
log = logging.getLogger("petlbench")
T = TypeVar("T")


def say(line: str) -> None:
    """Print a line to stderr; stdout is for results, which programs may read."""
    print(line, file=sys.stderr)


def progress(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items and show the description and how many of `total` are done."""
    # The frames of a bar would fill a log file.
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    tracked = track(
        items, description, total=total, transient=True, console=console, disable=hidden
    )
    logged = time.monotonic()
    for number, item in enumerate(tracked):
        yield item
        if hidden and time.monotonic() - logged > LOG_EVERY_S:
            logged = time.monotonic()
            say(f"{description}: {number + 1} of {total}")


class EpochProgress:
    """Progress of a training: epochs, a note such as the loss, and the time left."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.done = 0
        self.logged = self.started = time.monotonic()  # the wall clock may be set back
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

    def __enter__(self) -> "EpochProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, note: str) -> None:
        """Count one epoch and show the note beside it."""
        self.done += 1
        self.bar.update(self.task, completed=self.done, note=note)
        now = time.monotonic()
        if self.bar.disable and now - self.logged > LOG_EVERY_S:
            left_s = (now - self.started) / self.done * (self.epochs - self.done)
            log.info("epoch %d/%d %s, %.0f s left", self.done, self.epochs, note, left_s)
            self.logged = now
