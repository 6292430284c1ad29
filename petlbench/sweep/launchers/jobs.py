"""Jobs of hydra/launcher=slurm: of Slurm, or processes of this machine, by submitit."""

import contextlib
import io
import pickle
import subprocess
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from petlbench.errors import UserError, first_line
from petlbench.run.claims import BEAT_S, FREE_S
from petlbench.run.once import POLL_S
from petlbench.run.record import Record
from petlbench.sweep.launchers import engine
from petlbench.sweep.launchers.launcher import Assignment, Execute

ARRAY = 1000  # jobs of an array at most: Slurm's default MaxArraySize is 1001
QUEUE_S = 10.0  # between two looks at the queue
GRACE_S = 30.0  # that a result may need to be seen, after its job has left the queue
Job = Any  # of submitit


class Work:
    """What a job does; submitit stores it with its run, and once more when it is requeued."""

    def __init__(self, execute: Execute, processors: int) -> None:
        self.execute, self.processors = execute, processors

    def __call__(self, assignment: Assignment) -> Record | Exception | None:
        """The run. The claim of the same run before a requeue is free after a minute."""
        engine.use_processors(self.processors)
        end = time.monotonic() + FREE_S + 2 * BEAT_S
        while (answer := engine.answer(self.execute, assignment)) is None:
            if time.monotonic() > end:
                break
            time.sleep(POLL_S)
        return answer

    def checkpoint(self, assignment: Assignment) -> Any:
        """Hook of submitit: what a preempted job does when it starts again."""
        return submitit().helpers.DelayedSubmission(self, assignment)


class Jobs(ABC):
    """The jobs that have not ended. places: how many processes may run here at the same time."""

    def __init__(self, executor: Any, work: Work, places: int) -> None:
        self.executor, self.work, self.places = executor, work, places
        self.running: dict[str, tuple[Job, Assignment]] = {}

    def submit(self, assignments: Sequence[Assignment]) -> None:
        """Raise UserError with the reason if sbatch refuses."""
        refused = submitit().core.utils.FailedJobError
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # it prints the reason too
                jobs = self.executor.map_array(self.work, assignments)
        except refused as error:
            raise UserError(f"Slurm refuses the jobs: {first_line(error)}") from error
        for job, assignment in zip(jobs, assignments, strict=True):
            self.running[job.job_id] = job, assignment

    def ended(self, seconds: float) -> list[tuple[Assignment, engine.Answer]]:
        """The runs that have ended."""
        time.sleep(seconds)
        gone = self.gone()  # before the results, which may come now
        found = []
        for name, (job, assignment) in list(self.running.items()):
            answer = _result(job)
            if answer is PENDING and name in gone:
                answer = engine.Lost(f"its job {name} left no result")
            if answer is not PENDING:
                del self.running[name]
                found.append((assignment, answer))
        return found

    @abstractmethod
    def gone(self) -> set[str]:
        """The jobs that will bring no result any more, if they have not done so yet."""


class Queue(Jobs):
    """Jobs of Slurm."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.looked = time.monotonic()
        self.absent: dict[str, float] = {}  # since when jobs are not in the queue

    def __str__(self) -> str:
        arrays = dict.fromkeys(name.partition("_")[0] for name in self.running)
        return f"{len(self.running)} jobs of Slurm: {', '.join(arrays)}"

    def start(self, assignments: Sequence[Assignment]) -> None:
        """Submit runs as arrays."""
        for first in range(0, len(assignments), ARRAY):
            self.submit(assignments[first : first + ARRAY])

    def gone(self) -> set[str]:
        """Those that are not in the queue for a time."""
        now = time.monotonic()
        if now - self.looked >= QUEUE_S:
            self.looked = now
            command = ["squeue", "-h", "-r", "-o", "%i", "--me"]
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            if told.returncode == 0:  # else the controller is away: nothing is known
                absent = self.running.keys() - set(told.stdout.split())
                self.absent = {name: self.absent.get(name, now) for name in absent}
        return {name for name, since in self.absent.items() if now - since > GRACE_S}

    def end(self) -> None:
        """Cancel all jobs."""
        if self.running:
            subprocess.run(["scancel", *self.running], capture_output=True, check=False)


class Processes(Jobs):
    """Processes of this machine."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiting: deque[Assignment] = deque()

    def start(self, assignments: Sequence[Assignment]) -> None:
        """Start as many runs as there are places; the others wait."""
        self.waiting.extend(assignments)
        while self.waiting and len(self.running) < self.places:
            self.submit([self.waiting.popleft()])

    def ended(self, seconds: float) -> list[tuple[Assignment, engine.Answer]]:
        """The runs that have ended; others start in their places."""
        found = super().ended(seconds)
        self.start([])
        return found

    def gone(self) -> set[str]:
        """Those whose process has ended."""
        return {name for name, (job, _) in self.running.items() if job.done(force_check=True)}

    def end(self) -> None:
        """Interrupt all processes and wait for them."""
        for job, _ in self.running.values():
            job.cancel(check=False)
        for job, _ in self.running.values():
            while not job.done(force_check=True):
                time.sleep(POLL_S)


PENDING = object()  # instead of an answer


def _result(job: Job) -> Any:
    """The answer that a job has left."""
    path: Path = job.paths.result_pickle
    with contextlib.suppress(FileNotFoundError):
        kind, answer = pickle.loads(path.read_bytes())
        if kind == "success":
            return answer
        return engine.Lost((str(answer).strip().splitlines() or ["it ended"])[-1])
    return PENDING


def submitit() -> Any:
    """The package. Raises UserError if it is not installed."""
    try:
        return import_module("submitit")
    except ImportError as error:
        raise UserError(
            "hydra/launcher=slurm needs submitit; pip install 'petlbench[slurm]'"
        ) from error
