"""Assignments for tests of launchers."""

from dataclasses import replace
from pathlib import Path

from petlbench.sweep.launchers.launcher import Assignment
from petlbench.sweep.plan import TO_RUN, Planned
from tests.settings import config


def runs(root: Path, number: int, *what: str, device: str = "cpu") -> list[Assignment]:
    """Assignments; the first ones with something to do that `tests.launched` knows."""
    settings = replace(config(root), device=device)
    settings = replace(settings, results=replace(settings.results, root=str(root)))
    return [
        Assignment(Planned(settings, f"{place:016x}", TO_RUN, what[place : place + 1]), None)
        for place in range(number)
    ]
