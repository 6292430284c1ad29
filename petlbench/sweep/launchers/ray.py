"""hydra/launcher=ray: each run is a task of Ray, on this machine or on a standing cluster.

A task whose worker was killed is tried again. Ray on this machine listens on loopback and leaves
no file.
"""

import atexit
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from petlbench.checks import whole
from petlbench.errors import UserError, one_line
from petlbench.run.record import Record
from petlbench.sweep.launchers import engine, gpus, room
from petlbench.sweep.launchers.launcher import Assignment, Execute
from petlbench.sweep.plan import Planned
from petlbench.system import cpu_count, temporary_file

ANSWER_S = 20.0  # that a standing cluster has to answer
SEEN_S = 5.0  # after which another machine must see a new file
END_S = 10.0  # that tasks have to clean up before they are killed
LOOPBACK = "127.0.0.2"  # Ray takes 127.0.0.1 for the address that others see
QUIET: Mapping[str, Any] = {
    "log_to_driver": False,
    "configure_logging": False,
    "logging_level": "ERROR",
}
# what tasks on other machines need to know; those of this machine inherit all
SENT = ("PETLBENCH_", "WANDB_", "HF_", "PYTHONPATH")


T = TypeVar("T")


class Ray:
    """Tasks of Ray.

    address: of a standing cluster, HOST:PORT or `auto`; None: Ray is started here. gpus_per_run:
    the share of a GPU that a run takes. cpus_per_run: processors and threads of a run. retries:
    how often a run is tried again after its worker was killed.
    """

    def __init__(
        self, *, address: str | None, gpus_per_run: float, cpus_per_run: int, retries: int
    ) -> None:
        if not isinstance(address, str | None) or address in ("", "local"):
            raise UserError(f"hydra.launcher.address is {address!r}; it must be HOST:PORT or auto")
        self.address = address
        self.share = gpus.share(gpus_per_run)
        self.cpus = whole("hydra.launcher.cpus_per_run", cpus_per_run, low=1)
        self.retries = whole("hydra.launcher.retries", retries, low=0)

    def check(self, runs: Sequence[Planned]) -> None:
        """Connect. Raises UserError without Ray, without an answer, and if no node has room."""
        wanted = gpus.wanted(runs)
        self._connect(len(gpus.visible()) if wanted else 0)
        try:
            share = self._share(runs) if wanted else 0.0
            self._check_room(share)
            if share:
                room.check(runs, share, self._memory_mib())
        except UserError:
            self._stop()
            raise
        self.options = {"num_cpus": self.cpus, "num_gpus": share, "max_retries": 0}

    def launch(
        self, assignments: Sequence[Assignment], execute: Execute
    ) -> Iterator[tuple[Planned, Record]]:
        """Yield each run with its record as it ends."""
        tasks = _Tasks(execute, self.options)
        try:
            _check_folders({each.planned.config.results.root for each in assignments})
            yield from engine.results(tasks, assignments, self.retries)
        finally:
            tasks.end()
            self._stop()

    def _share(self, runs: Sequence[Planned]) -> float:
        """The part of a GPU that a run takes; 0 without GPUs."""
        if any(_has(node, "GPU") for node in _nodes()):
            return self.share
        if any(run.config.device == "cuda" for run in runs):
            raise UserError("device=cuda, and no node of Ray has a GPU; set device=cpu or auto")
        return 0.0

    def _memory_mib(self) -> float:
        """The memory of the smallest GPU."""
        if self.address is None:
            return gpus.memory_mib()
        return min(_ask(node, gpus.memory_mib) for node in _nodes() if _has(node, "GPU"))

    def _check_room(self, share: float) -> None:
        able = [n for n in _nodes() if _has(n, "GPU") >= share and _has(n, "CPU") >= self.cpus]
        if not able:
            most = max((_has(node, "CPU") for node in _nodes()), default=0)
            raise UserError(
                f"hydra.launcher.cpus_per_run={self.cpus} with {share:g} GPUs fits on no node of "
                f"Ray; the largest has {most:g} processors"
            )

    def _connect(self, gpu_count: int) -> None:
        if self.address is None:
            # set before Ray is imported: a token of its own, none in the home of the user
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = _ray()
        if self.address is not None:
            _check_answer(self.address)
            sent = {name: value for name, value in os.environ.items() if name.startswith(SENT)}
            ray.init(self.address, runtime_env={"env_vars": sent}, **QUIET)
            return
        self.folder = tempfile.mkdtemp(prefix="petlbench-ray-")
        atexit.register(self._stop)  # if the sweep ends before `launch`
        place = {"_node_ip_address": LOOPBACK} if sys.platform == "linux" else {}
        ray.init(
            "local",
            num_cpus=cpu_count(),
            num_gpus=gpu_count,
            include_dashboard=False,
            _temp_dir=self.folder,
            **place,
            **QUIET,
        )

    def _stop(self) -> None:
        _ray().shutdown()
        if self.address is None:
            shutil.rmtree(self.folder, ignore_errors=True)


class _Tasks:
    """The tasks that have not ended."""

    def __init__(self, execute: Execute, options: Mapping[str, Any]) -> None:
        self.ray = _ray()
        self.task = self.ray.remote(_work).options(**options)
        self.given = execute, str(Path.cwd()), options["num_cpus"]
        self.running: dict[Any, Assignment] = {}

    def start(self, assignments: Sequence[Assignment]) -> None:
        """Give runs to Ray, which starts them where there is room."""
        self.running |= {self.task.remote(each, *self.given): each for each in assignments}

    def ended(self, seconds: float) -> list[tuple[Assignment, engine.Answer]]:
        """The runs that have ended."""
        if not self.running:
            time.sleep(seconds)
            return []
        ready, _ = self.ray.wait(list(self.running), timeout=seconds)
        return [(self.running.pop(task), self._answer(task)) for task in ready]

    def end(self) -> None:
        """End all tasks; what they are doing is lost."""
        for force in (False, True):  # an interrupted run releases its claim
            for task in self.running:
                self.ray.cancel(task, force=force)
            _, left = (
                self.ray.wait(list(self.running), num_returns=len(self.running), timeout=END_S)
                if self.running
                else ([], [])
            )
            self.running = {task: self.running[task] for task in left}

    def _answer(self, task: Any) -> engine.Answer:
        try:
            found: engine.Answer = self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return engine.Lost(one_line(error).split(". ")[0])
        return found


def _work(
    assignment: Assignment, execute: Execute, folder: str, threads: int
) -> Record | Exception | None:
    """A task: one run. Relative paths start from the folder of the command."""
    os.chdir(folder)
    engine.use_threads(threads)
    return engine.answer(execute, assignment)


def _ray() -> Any:
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise UserError("hydra/launcher=ray needs Ray; pip install 'petlbench[ray]'") from error
    # it prints each killed worker, which `engine` says in a line of its own
    ray._private.worker._worker_logs_enabled = False
    return ray


def _check_answer(address: str) -> None:
    """Refuse an address without a cluster; in a process that can be killed while it waits."""
    script = f"import ray, sys; ray.init(sys.argv[1], **{QUIET})"  # what it says goes to the pipe
    command = [sys.executable, "-c", script, address]
    try:
        answered = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
        lines = answered.stderr.strip().splitlines() or ["it ended"]
        reason = lines[-1].rstrip(".") if answered.returncode else None
    except subprocess.TimeoutExpired:
        reason = f"no answer within {ANSWER_S:g} s"
    if reason is not None:
        raise UserError(
            f"hydra.launcher.address={address}: {reason}; start Ray there (ray start --head), or "
            "leave it out"
        )


def _nodes() -> list[Any]:
    return [node for node in _ray().nodes() if node["Alive"]]


def _has(node: Any, resource: str) -> float:
    return float(node["Resources"].get(resource, 0))


def _check_folders(roots: set[str]) -> None:
    """Refuse a node that does not see the folder of the command or what is written to a root."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(temporary_file(Path(root).expanduser())) for root in roots]
        names = [file.name for file in files]
        for node in _nodes():
            unseen = _ask(node, _unseen, str(Path.cwd()), names)
            if unseen is not None:
                raise UserError(
                    f"node {node['NodeManagerHostname']} of Ray does not see '{unseen}'; set "
                    "results.root to a folder that all nodes share, and start the command in one"
                )


def _ask(node: Any, function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns on a node. Raises UserError if it cannot be called there."""
    ray = _ray()
    affinity = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    place = affinity(node["NodeID"], soft=False)
    task = ray.remote(function).options(num_cpus=0, scheduling_strategy=place)
    try:
        answer: T = ray.get(task.remote(*arguments))
    except ray.exceptions.RayError as error:
        raise UserError(
            f"node {node['NodeManagerHostname']} of Ray cannot work: {one_line(error)}; install "
            "the same petlbench there"
        ) from error
    return answer


def _unseen(folder: str, names: Sequence[str]) -> str | None:
    """A task: the first folder that this node does not see, or None."""
    try:
        os.chdir(folder)
    except OSError:
        return folder
    end = time.monotonic() + SEEN_S
    for name in names:
        while not os.path.exists(name):  # file systems of a network may show it later
            if time.monotonic() > end:
                return os.path.dirname(name)
            time.sleep(0.1)
    return None
