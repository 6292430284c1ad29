"""hydra/launcher=slurm: each run is a job of an array of Slurm, submitted by submitit.

The files of jobs are in `.slurm` below results.root. A job that has left the queue without a
result is noticed from `squeue` alone. A preempted job is requeued by submitit and does its run
again, unless another process has done it.
"""

import contextlib
import io
import logging
import pickle
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from petlbench.checks import choice, flag, positive, text, whole
from petlbench.errors import UserError, first_line
from petlbench.run.claims import BEAT_S, FREE_S
from petlbench.run.once import POLL_S
from petlbench.run.record import Record
from petlbench.sweep.launchers import engine, gpus
from petlbench.sweep.launchers.launcher import Assignment, Execute
from petlbench.sweep.plan import Planned
from petlbench.system import cpu_count

FOLDER = ".slurm"
ARRAY = 1000  # jobs of an array at most: Slurm's default MaxArraySize is 1001
QUEUE_S = 10.0  # between two looks at the queue
GRACE_S = 30.0  # that a result may need to be seen, after its job has left the queue
log = logging.getLogger("petlbench")
Job = Any  # of submitit


class Slurm:
    """Jobs of Slurm, or processes of this machine with cluster=local.

    gpus_per_run, cpus_per_run, mem_gb, timeout_min: what a job asks for. array_parallelism: jobs
    at the same time. wait: False to return after the submission. retries: how often a run is
    tried again after its job was lost. setup: shell lines before it. parameters: of sbatch.
    """

    def __init__(
        self,
        *,
        cluster: str,
        partition: str | None,
        account: str | None,
        gpus_per_run: int,
        cpus_per_run: int,
        mem_gb: float | None,
        timeout_min: int,
        array_parallelism: int,
        wait: bool,
        retries: int,
        setup: Sequence[str],
        parameters: Mapping[str, Any],
    ) -> None:
        key = "hydra.launcher.{}".format
        self.is_local = choice(key("cluster"), cluster, ["slurm", "local"]) == "local"
        self.gpus = whole(key("gpus_per_run"), gpus_per_run, low=0, high=1)
        self.cpus = whole(key("cpus_per_run"), cpus_per_run, low=1)
        self.parallel = whole(key("array_parallelism"), array_parallelism, low=1)
        self.wait = flag(key("wait"), wait)
        self.retries = whole(key("retries"), retries, low=0)
        self.asked: dict[str, Any] = {
            "timeout_min": whole(key("timeout_min"), timeout_min, low=1),
            "cpus_per_task": self.cpus,
            "slurm_array_parallelism": self.parallel,
            "slurm_setup": [text(key("setup"), line) for line in _sequence(key("setup"), setup)],
            "slurm_additional_parameters": _mapping(key("parameters"), parameters),
        }
        for name, value in (("partition", partition), ("account", account)):
            if value is not None:
                self.asked[f"slurm_{name}"] = text(key(name), value)
        if mem_gb is not None:
            self.asked["mem_gb"] = positive(key("mem_gb"), mem_gb)

    def check(self, runs: Sequence[Planned]) -> None:
        """Raise UserError without submitit or Slurm, and for a named GPU."""
        _submitit()
        if not self.is_local and not (shutil.which("sbatch") and shutil.which("srun")):
            raise UserError(
                "hydra/launcher=slurm finds no sbatch on this machine; start the sweep where jobs "
                "are submitted, or try it with hydra.launcher.cluster=local"
            )
        if self.is_local and not self.wait:
            raise UserError(
                "hydra.launcher.wait=false needs Slurm; jobs of cluster=local end with the command"
            )
        if gpus.wanted(runs) and self.gpus:
            self.asked["gpus_per_node"] = self.gpus

    def launch(
        self, assignments: Sequence[Assignment], execute: Execute
    ) -> Iterator[tuple[Planned, Record]]:
        """Yield each run with its record as it ends; none with wait=false."""
        if not assignments:
            return
        root = assignments[0].planned.config.results.root
        folder = Path(root).expanduser().resolve() / FOLDER
        kind = _Processes if self.is_local else _Queue
        jobs = kind(self._executor(folder), Work(execute, self.cpus), self._places())
        try:
            if self.wait:
                yield from engine.results(jobs, assignments, self.retries)
                return
            jobs.start(assignments)
            log.info("submitted as %s; python -m petlbench.status --records %s", jobs, root)
            jobs.running.clear()
        finally:
            jobs.end()

    def _executor(self, folder: Path) -> Any:
        cluster = "local" if self.is_local else "slurm"
        executor = _submitit().AutoExecutor(
            folder=folder, cluster=cluster, slurm_max_num_timeout=self.retries
        )
        executor.update_parameters(name="petlbench", **self.asked)
        return executor

    def _places(self) -> int:
        return min(self.parallel, max(1, cpu_count() // self.cpus))


class Work:
    """What a job does; submitit stores it with its run, and once more when it is requeued."""

    def __init__(self, execute: Execute, threads: int) -> None:
        self.execute, self.threads = execute, threads

    def __call__(self, assignment: Assignment) -> Record | Exception | None:
        """The run. The claim of the same run before a requeue is free after a minute."""
        engine.use_threads(self.threads)
        end = time.monotonic() + FREE_S + 2 * BEAT_S
        while (answer := engine.answer(self.execute, assignment)) is None:
            if time.monotonic() > end:
                break
            time.sleep(POLL_S)
        return answer

    def checkpoint(self, assignment: Assignment) -> Any:
        """Hook of submitit: what a preempted job does when it starts again."""
        return _submitit().helpers.DelayedSubmission(self, assignment)


class _Jobs:
    """The jobs that have not ended. places: how many processes may run here at the same time."""

    def __init__(self, executor: Any, work: Work, places: int) -> None:
        self.executor, self.work, self.places = executor, work, places
        self.running: dict[str, tuple[Job, Assignment]] = {}

    def submit(self, assignments: Sequence[Assignment]) -> None:
        """Raise UserError with the reason if sbatch refuses."""
        refused = _submitit().core.utils.FailedJobError
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

    def gone(self) -> set[str]:
        """The jobs that will bring no result any more, if they have not done so yet."""
        raise NotImplementedError


class _Queue(_Jobs):
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


class _Processes(_Jobs):
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


def _submitit() -> Any:
    try:
        return import_module("submitit")
    except ImportError as error:
        raise UserError(
            "hydra/launcher=slurm needs submitit; pip install 'petlbench[slurm]'"
        ) from error


def _sequence(name: str, value: object) -> Sequence[str]:
    if isinstance(value, list | tuple):
        return value
    raise UserError(f"{name} is {value}; it must be a list of shell lines")


def _mapping(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise UserError(f"{name} is {value}; it must map options of sbatch to values")
