"""hydra/launcher=slurm: each run is a job of an array of Slurm, submitted by submitit.

The files of jobs are in `.slurm` below results.root. A job that has left the queue without a
result is noticed from `squeue` alone. A preempted job is requeued by submitit and does its run
again, unless another process has done it.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from petlbench.checks import choice, flag, positive, text, whole
from petlbench.errors import UserError
from petlbench.run.record import Record
from petlbench.sweep.launchers import engine, gpus, jobs
from petlbench.sweep.launchers.launcher import Assignment, Execute
from petlbench.sweep.plan import Planned
from petlbench.system import cpu_count

FOLDER = ".slurm"
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")
log = logging.getLogger("petlbench")


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
        self.is_here = choice(key("cluster"), cluster, ["slurm", "local"]) == "local"
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
        jobs.submitit()
        if not self.is_here and not all(map(shutil.which, PROGRAMS)):
            raise UserError(
                "hydra/launcher=slurm finds no sbatch on this machine; start the sweep where jobs "
                "are submitted, or try it with hydra.launcher.cluster=local"
            )
        if self.is_here and not self.wait:
            raise UserError(
                "hydra.launcher.wait=false needs Slurm; jobs of cluster=local end with the command"
            )
        if gpus.wanted(runs) and self.gpus:
            self.asked["gpus_per_node"] = self.gpus
            if self.is_here and (found := gpus.visible()):
                self._take_first(found)

    def _take_first(self, found: Sequence[str]) -> None:
        """One run at a time: submitit gives GPU 0 to every process of this machine."""
        if found[0] != "0":
            raise UserError(
                f"hydra.launcher.cluster=local uses GPU 0 alone, and {gpus.VISIBLE} is "
                f"{','.join(found)}; use hydra/launcher=local"
            )
        self.parallel = 1

    def launch(
        self, assignments: Sequence[Assignment], execute: Execute
    ) -> Iterator[tuple[Planned, Record]]:
        """Yield each run with its record as it ends; none with wait=false."""
        if not assignments:
            return
        root = assignments[0].planned.config.results.root
        folder = Path(root).expanduser().resolve() / FOLDER
        kind = jobs.Processes if self.is_here else jobs.Queue
        submitted = kind(self._executor(folder), jobs.Work(execute, self.cpus), self._places())
        try:
            if self.wait:
                yield from engine.results(submitted, assignments, self.retries)
                return
            submitted.start(assignments)
            log.info("submitted as %s; python -m petlbench.status --records %s", submitted, root)
            submitted.running.clear()
        finally:
            submitted.end()

    def _executor(self, folder: Path) -> Any:
        cluster = "local" if self.is_here else "slurm"
        executor = jobs.submitit().AutoExecutor(
            folder=folder, cluster=cluster, slurm_max_num_timeout=self.retries
        )
        executor.update_parameters(name="petlbench", **self.asked)
        return executor

    def _places(self) -> int:
        return min(self.parallel, max(1, cpu_count() // self.cpus))


def _sequence(name: str, value: object) -> Sequence[str]:
    if isinstance(value, list | tuple):
        return value
    raise UserError(f"{name} is {value}; it must be a list of shell lines")


def _mapping(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise UserError(f"{name} is {value}; it must map options of sbatch to values")
