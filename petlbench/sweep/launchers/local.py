"""hydra/launcher=local: worker processes on this machine, one for each GPU or share of a GPU.

A worker does one run at a time. If it is killed, its run is tried once more by a new one.
"""

import contextlib
import logging
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_all_start_methods, get_context
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from petlbench.checks import whole
from petlbench.errors import UserError
from petlbench.run.record import Record
from petlbench.sweep.launchers import engine, gpus, room
from petlbench.sweep.launchers.launcher import Assignment, Execute
from petlbench.sweep.plan import Planned
from petlbench.system import PROCESSORS, cpu_count

RETRIES = 1  # of a run whose worker was killed
END_S = 10.0  # that a worker has to clean up before it is killed
log = logging.getLogger("petlbench")


class Local:
    """Worker processes.

    workers: their number, or `auto`: as many as GPUs and `gpus_per_run` allow, without a GPU as
    many as processors and `threads` allow. gpus_per_run: the share of a GPU that a run takes, e.g.
    0.1 for ten runs on each. threads: of a worker; `auto`: the processors, shared evenly.
    """

    is_here = True

    def __init__(self, *, workers: int | str, gpus_per_run: float, threads: int | str) -> None:
        self.workers = _number("hydra.launcher.workers", workers)
        self.threads = _number("hydra.launcher.threads", threads)
        self.share = gpus.share(gpus_per_run)

    def check(self, runs: Sequence[Planned]) -> None:
        """Raise UserError for a named GPU, and for what the GPUs have no room for."""
        if any(place is not None for place in self._places(runs)):
            room.check(runs, self.share, gpus.memory_mib)

    def launch(
        self, assignments: Sequence[Assignment], execute: Execute
    ) -> Iterator[tuple[Planned, Record]]:
        """Yield each run with its record as it ends."""
        places = self._places([each.planned for each in assignments])[: len(assignments)]
        processors = max(1, cpu_count() // len(places))
        pool = _Pool(execute, places, processors, self._threads() or processors)
        try:
            yield from engine.results(pool, assignments, RETRIES)
        finally:
            pool.end()

    def _places(self, runs: Sequence[Planned]) -> list[str | None]:
        """The GPU of each worker; None: the processor."""
        found = gpus.visible() if gpus.wanted(runs) else []
        if not found:
            return [None] * (self.workers or max(1, cpu_count() // (self._threads() or 1)))
        places = [gpu for _ in range(math.floor(1 / self.share + 1e-9)) for gpu in found]
        if self.workers and self.workers > len(places):
            raise UserError(
                f"hydra.launcher.workers={self.workers} with gpus_per_run={self.share:g} needs "
                f"{math.ceil(self.workers * self.share)} GPUs; torch finds {len(found)}"
            )
        return list(places[: self.workers or len(places)])

    def _threads(self) -> int:
        """Those of each worker, 0 to share the processors evenly."""
        given = os.environ.get(engine.THREADS[0], "")
        return self.threads or (int(given) if given.isdecimal() else 0)


@dataclass
class _Worker:
    """A worker process. place: its GPU. work: what it does now."""

    process: BaseProcess
    pipe: "connection.Connection[Any, Any]"
    place: str | None
    work: Assignment | None = None


class _Pool:
    """Workers, and the runs that they do."""

    def __init__(
        self, execute: Execute, places: Sequence[str | None], processors: int, threads: int
    ) -> None:
        """processors, threads: of each worker"""
        self.execute = execute
        self.own = dict.fromkeys(engine.THREADS, str(threads)) | {PROCESSORS: str(processors)}
        self.context = _context(execute)
        self.workers = [self._started(place) for place in places]
        self.waiting: deque[Assignment] = deque()

    def start(self, assignments: Sequence[Assignment]) -> None:
        """Let runs wait for a worker."""
        self.waiting.extend(assignments)

    def ended(self, seconds: float) -> list[tuple[Assignment, engine.Answer]]:
        """The runs that have ended."""
        for worker in self.workers:
            if worker.work is None and self.waiting:
                self._assign(worker, self.waiting.popleft())
        return [self._received(worker) for worker in self._ready(seconds)]

    def end(self) -> None:
        """End all workers; what they are doing is lost."""
        for worker in self.workers:
            worker.pipe.close()  # an idle worker ends
            if worker.work is not None:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _started(self, place: str | None) -> _Worker:
        ours, theirs = self.context.Pipe()
        environment = dict(os.environ) | self.own
        if place is not None:
            environment[gpus.VISIBLE] = place
        process = self.context.Process(target=_work, args=(theirs, self.execute, environment))
        process.start()
        theirs.close()
        return _Worker(process, ours, place)

    def _assign(self, worker: _Worker, work: Assignment) -> None:
        worker.work = work
        with contextlib.suppress(OSError):  # it is dead, which `_received` finds
            worker.pipe.send(work)

    def _ready(self, seconds: float) -> list[_Worker]:
        busy = [worker for worker in self.workers if worker.work is not None]
        if not busy:
            time.sleep(seconds)
            return []
        ready = connection.wait([worker.pipe for worker in busy], seconds)
        return [worker for worker in busy if worker.pipe in ready]

    def _received(self, worker: _Worker) -> tuple[Assignment, engine.Answer]:
        """The run of a worker and its answer; a dead worker is replaced."""
        work, worker.work = worker.work, None
        assert work is not None
        try:
            return work, worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self.workers[self.workers.index(worker)] = self._started(worker.place)
            return work, engine.Lost(_ending(worker.process.exitcode))


def _context(execute: Execute) -> Any:
    """How workers start: as forks of a process that has imported torch and not used it."""
    if "forkserver" not in get_all_start_methods():  # Windows
        return get_context("spawn")
    context = get_context("forkserver")
    # torch takes seconds to import, and a process that has used CUDA cannot be forked
    context.set_forkserver_preload([execute.__module__])
    return context


def _work(
    pipe: "connection.Connection[Any, Any]", execute: Execute, environment: Mapping[str, str]
) -> None:
    """A worker: does what comes from the pipe until it closes."""
    os.environ.clear()
    os.environ.update(environment)  # before CUDA looks at it
    engine.use_threads(int(environment[engine.THREADS[0]]))  # torch may be there from the fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to workers too
    signal.signal(signal.SIGTERM, _leave)
    log.setLevel(logging.INFO)
    log.propagate = False  # what a run says is in its log file; the parent shows its result
    log.addHandler(logging.NullHandler())  # else logging prints warnings
    sys.stdin.close()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(engine.answer(execute, pipe.recv()))


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # not the default, so that claims are released


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"


def _number(key: str, value: int | str) -> int:
    """A number of at least 1, or 0 for `auto`."""
    return 0 if value == "auto" else whole(key, value, low=1)
