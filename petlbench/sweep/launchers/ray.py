"""hydra/launcher=ray: each run is a task of Ray, on this machine or on a standing cluster.

A task whose worker was killed is tried again. Ray on this machine listens on loopback and leaves
no file.
"""

import atexit
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from petlbench.checks import whole
from petlbench.errors import UserError, first_sentence
from petlbench.run.record import Record
from petlbench.sweep.launchers import cluster, engine, gpus, room
from petlbench.sweep.launchers.launcher import Assignment, Execute
from petlbench.sweep.plan import Planned
from petlbench.system import cpu_count

END_S = 10.0  # that tasks have to clean up before they are killed
LOOPBACK = "127.0.0.2"  # Ray takes 127.0.0.1 for the address that others see
# what tasks on other machines need to know; those of this machine inherit all
SENT = ("PETLBENCH_", "WANDB_", "HF_", "PYTHONPATH")


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
        self.address, self.is_here = address, address is None
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
                room.check(runs, share, self._memory_mib)
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
            cluster.check_folders({each.planned.config.results.root for each in assignments})
            yield from engine.results(tasks, assignments, self.retries)
        finally:
            tasks.end()
            self._stop()

    def _share(self, runs: Sequence[Planned]) -> float:
        """The part of a GPU that a run takes; 0 without GPUs."""
        if any(cluster.has(node, "GPU") for node in cluster.nodes()):
            return self.share
        if any(run.config.device == "cuda" for run in runs):
            raise UserError("device=cuda, and no node of Ray has a GPU; set device=cpu or auto")
        return 0.0

    def _memory_mib(self) -> float:
        """The memory of the smallest GPU."""
        if self.address is None:
            return gpus.memory_mib()
        return min(
            cluster.ask(node, gpus.memory_mib)
            for node in cluster.nodes()
            if cluster.has(node, "GPU")
        )

    def _check_room(self, share: float) -> None:
        able = [
            n
            for n in cluster.nodes()
            if cluster.has(n, "GPU") >= share and cluster.has(n, "CPU") >= self.cpus
        ]
        if not able:
            most = max((cluster.has(node, "CPU") for node in cluster.nodes()), default=0)
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
        ray = cluster.load()
        if self.address is not None:
            cluster.check_answer(self.address)
            sent = {name: value for name, value in os.environ.items() if name.startswith(SENT)}
            ray.init(self.address, runtime_env={"env_vars": sent}, **cluster.QUIET)
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
            **cluster.QUIET,
        )

    def _stop(self) -> None:
        cluster.load().shutdown()
        if self.address is None:
            shutil.rmtree(self.folder, ignore_errors=True)


class _Tasks:
    """The tasks that have not ended."""

    def __init__(self, execute: Execute, options: Mapping[str, Any]) -> None:
        self.ray = cluster.load()
        # not `.options()`, which would leave out Ray's rule that a worker with a GPU does one task
        self.task = self.ray.remote(**options)(_work)
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
            return engine.Lost(first_sentence(error))
        return found


def _work(
    assignment: Assignment, execute: Execute, folder: str, processors: int
) -> Record | Exception | None:
    """A task: one run. Relative paths start from the folder of the command."""
    os.chdir(folder)
    engine.use_processors(processors)
    return engine.answer(execute, assignment)
