"""The same runs alone, in a sweep, in another order, after a kill, with other hash seeds, threads.

Scores, losses and the bytes of the deltas must be equal, for all methods of the paper.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from petlbench.config import options
from tests.torture.places import differences
from tests.torture.processes import Command, run, stopped
from tests.torture.scenarios import QUICK, SMALL, Snapshot, snapshot


def attack(top: Path) -> Iterator[str]:
    """Prints nothing; yields a line for each difference."""
    names = options.listed("method", "paper") or []
    expected = _done(top, "in a sweep", [_sweep(names)])
    variants = {
        "in another order": [_sweep(names[::-1])],
        "alone": [_sweep([name]) for name in names],
        "with two threads": [replace(_sweep(names), setup=_two_threads)],
    }
    for name, commands in variants.items():
        yield from _against(expected, _done(top, name, commands), name)
    folder = top / "after kills"
    folder.mkdir()
    for after_s in (3.0, 8.0, 15.0):
        stopped(_sweep(names), folder, after_s, signal.SIGKILL)
    end = run(_sweep(names), folder)
    assert end.code == 0, end.output
    yield from _against(expected, _runs(folder), folder.name)
    for seed in ("1", "2"):
        folder = top / f"hash seed {seed}"
        folder.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed, "PETLBENCH_CACHE": "cache"}
        command = [sys.executable, "-m", "petlbench", *_sweep(names).arguments]
        path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        subprocess.run(command, cwd=folder, env=environment | {"PYTHONPATH": path}, check=True)
        yield from _against(expected, _runs(folder), folder.name)


def _against(expected: Snapshot, found: Snapshot, name: str) -> Iterator[str]:
    yield from (f"{name}: {one}" for one in differences(expected, found))


def _sweep(names: list[str]) -> Command:
    axes = ("-m", f"method={','.join(names)}", "dataset=mini/location", *QUICK, *SMALL)
    return Command("petlbench", axes, environment={"PETLBENCH_CACHE": "cache"})


def _done(top: Path, name: str, commands: list[Command]) -> Snapshot:
    folder = top / name
    folder.mkdir()
    for command in commands:
        end = run(command, folder)
        assert end.code == 0, end.output
    return _runs(folder)


def _runs(folder: Path) -> Snapshot:
    found = snapshot(folder)
    # not the plans: one command or several
    return {n: text for n, text in found.items() if n.startswith("results/") and ".plans" not in n}


def _two_threads() -> None:
    torch.set_num_threads(2)
