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

from petlbench.checks import positive, whole
from petlbench.errors import UserError
from petlbench.run.once import POLL_S
from petlbench.run.record import Record, Store
from petlbench.sweep.launchers.launcher import Assignment, Execute
from petlbench.sweep.plan import Planned
from petlbench.system import cpu_count

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
TRIES = 2  # of a run whose worker was killed
END_S = 10.0  # that a worker has to clean up before it is killed
log = logging.getLogger("petlbench")


class Local:
    """Worker processes.

    workers: their number, or `auto`: as many as GPUs and `gpus_per_run` allow, without a GPU as
    many as processors and `threads` allow. gpus_per_run: the share of a GPU that a run takes, e.g.
    0.1 for ten runs on each. threads: of a worker; `auto`: the processors, shared evenly.
    """

    def __init__(self, *, workers: int | str, gpus_per_run: float, threads: int | str) -> None:
        self.workers = _number("hydra.launcher.workers", workers)
        self.threads = _number("hydra.launcher.threads", threads)
        self.share = positive("hydra.launcher.gpus_per_run", gpus_per_run)
        if self.share > 1:
            raise UserError(
                f"hydra.launcher.gpus_per_run is {self.share:g}; a run uses one GPU at most"
            )

    def check(self, runs: Sequence[Planned]) -> None:
        """Raise UserError for more workers than the GPUs have room for, and for a named GPU."""
        self._places(runs)

    def launch(
        self, assignments: Sequence[Assignment], execute: Execute
    ) -> Iterator[tuple[Planned, Record]]:
        """Yield each run with its record as it ends."""
        places = self._places([each.planned for each in assignments])[: len(assignments)]
        pool = _Pool(execute, places, self._threads() or max(1, cpu_count() // len(places)))
        try:
            yield from pool.results(assignments)
        finally:
            pool.end()

    def _places(self, runs: Sequence[Planned]) -> list[str | None]:
        """The GPU of each worker; None: the processor."""
        devices = {run.config.device for run in runs}
        gpus = _gpus() if devices != {"cpu"} else []
        if not gpus:
            return [None] * (self.workers or max(1, cpu_count() // (self._threads() or 1)))
        if named := sorted(name for name in devices if name.startswith("cuda:")):
            raise UserError(
                f"device={named[0]} names one GPU and hydra/launcher=local chooses them; leave it "
                f"out, or set {VISIBLE}"
            )
        room = [gpu for _ in range(math.floor(1 / self.share + 1e-9)) for gpu in gpus]
        if self.workers and self.workers > len(room):
            raise UserError(
                f"hydra.launcher.workers={self.workers} with gpus_per_run={self.share:g} needs "
                f"{math.ceil(self.workers * self.share)} GPUs; torch finds {len(gpus)}"
            )
        return list(room[: self.workers or len(room)])

    def _threads(self) -> int:
        """Those of each worker, 0 to share the processors evenly."""
        given = os.environ.get(THREADS[0], "")
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

    def __init__(self, execute: Execute, places: Sequence[str | None], threads: int) -> None:
        self.execute, self.threads = execute, threads
        self.context = _context(execute)
        self.workers = [self._started(place) for place in places]
        self.killed: dict[str, int] = {}

    def results(self, assignments: Sequence[Assignment]) -> Iterator[tuple[Planned, Record]]:
        """Each run with its record as it ends."""
        waiting, left = deque(assignments), len(assignments)
        others: deque[Assignment] = deque()  # runs that other processes are doing
        looked = time.monotonic()
        while left:
            for worker in self.workers:
                if worker.work is None and waiting:
                    self._assign(worker, waiting.popleft())
            for worker in self._ready(POLL_S):
                work, answer = worker.work, self._received(worker)
                assert work is not None
                worker.work = None
                if isinstance(answer, Exception):
                    raise answer  # no later run could be recorded either
                record = self._after_kill(worker, work, waiting) if answer == KILLED else answer
                if answer is None:
                    others.append(work)
                elif record is not None:
                    left -= 1
                    yield work.planned, record
            if not waiting and time.monotonic() - looked > POLL_S:
                waiting, others, looked = others, deque(), time.monotonic()

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
        environment = dict(os.environ) | dict.fromkeys(THREADS, str(self.threads))
        if place is not None:
            environment[VISIBLE] = place
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

    def _received(self, worker: _Worker) -> Any:
        """A record, None for a run that another process does, an exception, or KILLED."""
        try:
            return worker.pipe.recv()
        except (EOFError, OSError):
            return KILLED

    def _after_kill(
        self, worker: _Worker, work: Assignment, waiting: deque[Assignment]
    ) -> Record | None:
        """A new worker, and the run once more or its record as failed."""
        worker.process.join()
        code = worker.process.exitcode
        name = work.planned.id
        self.killed[name] = self.killed.get(name, 0) + 1
        self.workers[self.workers.index(worker)] = self._started(worker.place)
        if self.killed[name] < TRIES:
            log.warning("%s: its worker ended (%s); once more", work.planned.name, _ending(code))
            waiting.appendleft(work)
            return None
        from petlbench.run.lifecycle import blank, ended  # imports torch

        config = work.planned.config
        reason = f"its worker ended {TRIES} times ({_ending(code)}); memory may be short"
        record = ended(blank(config), "failed", reason)
        Store(config.results.root).write(record)
        return record


KILLED = "killed"  # instead of a record


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
    if "torch" in sys.modules:
        # which has read the environment of the process that was forked
        sys.modules["torch"].set_num_threads(int(environment[THREADS[0]]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to workers too
    signal.signal(signal.SIGTERM, _leave)
    log.setLevel(logging.INFO)
    log.propagate = False  # what a run says is in its log file; the parent shows its result
    log.addHandler(logging.NullHandler())  # else logging prints warnings
    sys.stdin.close()
    with contextlib.suppress(EOFError, OSError):
        while True:
            work = pipe.recv()
            try:
                answer: Record | Exception | None = execute(work)
            except Exception as error:
                answer = error
            pipe.send(answer)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # not the default, so that claims are released


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"


def _number(key: str, value: int | str) -> int:
    """A number of at least 1, or 0 for `auto`."""
    return 0 if value == "auto" else whole(key, value, low=1)


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get(VISIBLE)
    names = [name.strip() for name in visible.split(",")] if visible else map(str, range(count))
    return list(names)[:count]
