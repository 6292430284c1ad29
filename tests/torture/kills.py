"""Commands stopped at random moments: after the next command nothing is lost, broken or left."""

import random
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.torture.processes import End, run, stopped
from tests.torture.scenarios import Scenario, Snapshot, records, snapshot

CODES = {signal.SIGKILL: 137, signal.SIGINT: 130, signal.SIGTERM: 143}
IN_A_ROW = 3  # stops before the command may end


def attack(scenario: Scenario, which: Sequence[signal.Signals], seed: int) -> dict[str, int]:
    """Figures of one scenario: signals sent and faults of each kind. Prints every fault."""
    draw = random.Random(f"{scenario.name} {seed}")
    figures = dict.fromkeys(
        (
            "stopped",
            "ended_before",
            "lost",
            "left",
            "changed",
            "repeated",
            "codes",
            "tracebacks",
            "faults",
        ),
        0,
    )
    with tempfile.TemporaryDirectory(prefix="torture-") as top:
        expected, seconds = _undisturbed(scenario, Path(top) / "undisturbed")
        for number in range(0, len(which), IN_A_ROW):
            folder = Path(top) / f"trial-{number}"
            for kind, fault in _trial(
                scenario, folder, which[number : number + IN_A_ROW], draw, seconds, expected
            ):
                figures[kind] += 1
                if kind not in ("stopped", "ended_before"):
                    figures["faults"] += 1
                    print(f"{scenario.name}, trial {number}: {kind}: {fault}", flush=True)
    return figures


def _undisturbed(scenario: Scenario, folder: Path) -> tuple[Snapshot, float]:
    folder.mkdir()
    command = scenario.prepare(folder)
    end = run(command, folder)
    assert end.code == 0, end.output
    expected = snapshot(folder)
    again = run(command, folder)  # nothing to do
    assert again.code == 0, again.output
    return expected, end.seconds


def _trial(
    scenario: Scenario,
    folder: Path,
    which: Sequence[signal.Signals],
    draw: random.Random,
    seconds: float,
    expected: Snapshot,
) -> Iterator[tuple[str, str]]:
    """Stop the command several times in one folder, let it end, compare."""
    folder.mkdir()
    command = scenario.prepare(folder)
    done: dict[str, int] = {}
    for one in which:
        end = stopped(command, folder, draw.uniform(0, seconds), one)
        yield ("ended_before" if end.code == 0 else "stopped"), ""
        yield from _wrong_end(end, one)
        done |= records(folder)
    yield from _wrong_end(end := run(command, folder), None)
    if end.code != 0:
        return
    after, written = snapshot(folder), records(folder)
    for name in expected.keys() - after.keys():
        yield "lost", name
    for name in after.keys() - expected.keys():
        yield "left", name
    for name in expected.keys() & after.keys():
        if expected[name] != after[name]:
            yield "changed", f"{name}\n  {expected[name][:3000]}\n  {after[name][:3000]}"
    for name in done:
        if written.get(name) != done[name]:
            yield "repeated", name


def _wrong_end(end: End, which: signal.Signals | None) -> Iterator[tuple[str, str]]:
    allowed = {0} if which is None else {0, CODES[which]}
    if end.code not in allowed:
        yield "codes", f"{end.code} after {which}: {end.output[-500:]}"
    if end.traceback:
        yield "tracebacks", end.output[-1500:]
