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


SEEDS = ",".join(map(str, range(RUNS // 2)))
SWEEP = ("-m", "method=linear,bitfit", f"seed={SEEDS}", "dataset=mini/location", *QUICK, *SMALL)
ENVIRONMENT = {"PETLBENCH_CACHE": "../cache"}


def attack(top: Path) -> Iterator[str]:
    """Yields a line for each record that is lost, and each that differs, under each launcher."""
    undisturbed = top / "undisturbed"
    undisturbed.mkdir()
    end = run(Command("petlbench", SWEEP, ENVIRONMENT), undisturbed)
    assert end.code == 0, end.output
    for launcher, settings in LAUNCHERS.items():
        folder = top / launcher
        folder.mkdir()
        command = Command("petlbench", (*SWEEP, *settings), ENVIRONMENT)
        faults = [
            *_disturbed(launcher, command, folder, end.seconds / KILLS),
            *differences(_kept(undisturbed), _kept(folder)),
        ]
        yield from (f"{launcher}: {fault}" for fault in faults)


def _disturbed(launcher: str, command: Command, folder: Path, pause_s: float) -> Iterator[str]:
    """The command while its workers are killed, then once more for runs that lost two of them."""
    process = Process(command, folder)
    draw, killed = random.Random(0), 0
    while process.is_alive and killed < KILLS:
        time.sleep(draw.uniform(0.5, pause_s))
        if workers := _workers(launcher, process.pid):
            os.kill(draw.choice(workers), signal.SIGKILL)
            killed += 1
    ended = process.wait()
    twice = ended.output.count("its worker ended 2 times")
    if killed < KILLS:
        yield f"only {killed} workers were killed"
    if ended.code != (1 if twice else 0) or ended.traceback:
        yield f"{ended.code}: {ended.output[-800:]}"
    if ended.output.count(" failed=") != RUNS:
        yield f"{ended.output.count(' failed=')} runs have ended, {RUNS} were wanted"
    again = run(command, folder)
    if again.code != 0:
        yield f"once more: {again.code} {again.output[-800:]}"


def _kept(folder: Path) -> dict[str, str]:
    """The files of a folder, without hidden ones."""
    return {name: found for name, found in snapshot(folder).items() if "/." not in name}


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
