"""Progress of long work: a bar on a terminal, a line every half minute in a log file."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

LOG_EVERY_S = 30.0
CONSOLE = Console(stderr=True)  # one for all bars: only then may one run below another
NAME = TextColumn("{task.description}", markup=False)  # brackets in names of folders
log = logging.getLogger("petlbench")
T = TypeVar("T")


class Stderr(logging.StreamHandler[TextIO]):
    """Lines on what is stderr just now: while a bar runs, rich prints them above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Where the lines go."""
        return sys.stderr


def say(line: str) -> None:
    """Print a line to stderr; stdout is for results, which programs may read."""
    print(line, file=sys.stderr)


def progress(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items and show the description and how many of `total` are done."""
    logged = time.monotonic()
    for number, item in enumerate(bar(items, description, total)):
        yield item
        if not sys.stderr.isatty() and time.monotonic() - logged > LOG_EVERY_S:
            logged = time.monotonic()
            say(f"{description}: {number + 1} of {total}")


def bar(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items with a bar on a terminal, and no lines elsewhere."""
    columns = (NAME, BarColumn(), TaskProgressColumn(), TimeLeft())
    with _shown(*columns) as shown:
        yield from shown.track(items, total, description=description)


def _shown(*columns: ProgressColumn) -> Bar:
    # the frames of a bar would fill a log file
    hidden = not sys.stderr.isatty()
    return Bar(*columns, transient=True, console=CONSOLE, disable=hidden)


class TimeLeft(ProgressColumn):
    """The time left, as all steps so far went; rich's own column forgets those of over 30 s.

    The field `first` of a task counts the steps of an earlier start.
    """

    def render(self, task: Task) -> Text:
        """0:01:30, or dashes before the first step has ended."""
        done = task.completed - task.fields.get("first", 0)
        if not done or task.elapsed is None or task.remaining is None:
            return Text("-:--:--")
        left_s = task.elapsed / done * task.remaining
        return Text(str(timedelta(seconds=round(left_s))), "progress.remaining")


class EpochProgress:
    """Progress of a training: its title, epochs, a note such as the loss, and the time left.

    done: epochs of an earlier start.
    """

    def __init__(self, title: str, epochs: int, done: int = 0) -> None:
        self.title, self.epochs = title, epochs
        self.first = self.done = done
        self.logged = self.started = time.monotonic()  # the wall clock may be set back
        columns = (
            NAME,
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeLeft(),
        )
        self.bar = _shown(*columns)
        self.task = self.bar.add_task(title, total=epochs, completed=done, first=done, note="")

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
            epoch_s = (now - self.started) / (self.done - self.first)
            left_s = epoch_s * (self.epochs - self.done)
            log.info(
                "%s: epoch %d/%d %s, %.0f s left",
                *(self.title, self.done, self.epochs, note, left_s),
            )
            self.logged = now
