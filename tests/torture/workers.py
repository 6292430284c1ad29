"""Workers of launchers that are killed at random moments: no run is lost."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.torture.places import differences
from tests.torture.processes import Command, Process, run
from tests.torture.scenarios import QUICK, SMALL, snapshot

RUNS, KILLS = 38, 10
LAUNCHERS = {
    "local": ("hydra/launcher=local", "hydra.launcher.workers=2", "hydra.launcher.threads=1"),
    "ray": ("hydra/launcher=ray",),
    "slurm": ("hydra/launcher=slurm", "hydra.launcher.cluster=local"),
}
# in the command lines of workers that do a run; those of `local` are forks two generations below
MARKS = {"ray": "ray::_work", "slurm": "submitit.core._submit"}


def attack(launcher: str, top: Path) -> Iterator[str]:
    """Yields a line for each record that is lost, and each that differs."""
    seeds = ",".join(map(str, range(RUNS // 2)))
    axes = ("-m", "method=linear,bitfit", f"seed={seeds}", "dataset=mini/location")
    environment = {"PETLBENCH_CACHE": "../cache"}
    plain = Command("petlbench", (*axes, *QUICK, *SMALL), environment=environment)
    folders = top / "undisturbed", top / "killed"
    for folder in folders:
        folder.mkdir()
    end = run(plain, folders[0])
    assert end.code == 0, end.output
    command = Command(
        "petlbench", (*plain.arguments, *LAUNCHERS[launcher]), environment=environment
    )
    process = Process(command, folders[1])
    draw, killed = random.Random(0), 0
    while process.is_alive and killed < KILLS:
        time.sleep(draw.uniform(0.5, end.seconds / KILLS))
        if workers := _workers(launcher, process.pid):
            os.kill(draw.choice(workers), signal.SIGKILL)
            killed += 1
    ended = process.wait()
    twice = ended.output.count("its worker ended 2 times")
    if killed < KILLS:
        yield f"only {killed} workers were killed"
    if ended.code != (1 if twice else 0) or ended.traceback:
        yield f"{ended.code}: {ended.output[-800:]}"
    again = run(command, folders[1])  # runs that lost two workers have failed, and are tried again
    if again.code != 0:
        yield f"once more: {again.code} {again.output[-800:]}"
    yield from differences(
        *({k: v for k, v in snapshot(folder).items() if "/." not in k} for folder in folders)
    )


def _workers(launcher: str, command: int) -> list[int]:
    generations = [[command]]
    while generations[-1]:
        generations.append([child for pid in generations[-1] for child in _children(pid)])
    if launcher == "local":
        return generations[2] if len(generations) > 2 else []
    return [pid for below in generations[1:] for pid in below if MARKS[launcher] in _line(pid)]


def _line(pid: int) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
