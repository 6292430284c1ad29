"""Small disks, odd folder names, a clock set back, several sweeps over one root."""

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.torture.processes import Command, Process, run
from tests.torture.scenarios import Scenario, Snapshot, snapshot

SIZES = (0, 1_000, 30_000, 300_000)  # bytes that a file may have on the small disk
NAMES = ("a b", "données", "数据", "it's $HOME;#%", "n" * 240)
BACK_S = 400 * 86_400
Faults = Iterator[str]


def differences(expected: Snapshot, after: Snapshot) -> Faults:
    """Files that are lost, left or changed."""
    for name in sorted(expected.keys() | after.keys()):
        if expected.get(name) != after.get(name):
            state = "lost" if name not in after else "left" if name not in expected else "changed"
            yield f"{state}: {name}"


def small_disk(scenario: Scenario, top: Path) -> Faults:
    """Files cannot grow beyond a size: one line and no traceback; then the command has room."""
    expected = _expected(scenario, top)
    for size in SIZES:
        folder, command = _new(scenario, top, f"disk-{size}")
        end = run(replace(command, setup=_before(command, partial(_limit, size))), folder)
        if end.traceback or end.code not in (0, 1, 2):
            yield f"{scenario.name}, files of {size} bytes: {end.code} {end.output[-800:]}"
        again = run(command, folder)
        if again.code != 0:
            yield f"{scenario.name}, room after {size} bytes: {again.output[-800:]}"
        for one in differences(expected, snapshot(folder)):
            # a command that did its work without room for the cache leaves none
            if end.code != 0 or not one.startswith("lost: cache"):
                yield f"{size}: {one}"


def names(scenario: Scenario, top: Path) -> Faults:
    """The command in folders with odd names."""
    expected = _expected(scenario, top)
    for name in NAMES:
        folder, command = _new(scenario, top, name)
        end = run(command, folder)
        if end.code != 0:
            yield f"{scenario.name} in '{name[:20]}': {end.code} {end.output[-800:]}"
        yield from (f"{name[:20]}: {one}" for one in differences(expected, snapshot(folder)))


def clock(scenario: Scenario, top: Path) -> Faults:
    """The command twice, the second time a year ago."""
    expected = _expected(scenario, top)
    folder, command = _new(scenario, top, "clock")
    for number in range(2):
        setup = _before(command, _set_back) if number else command.setup
        end = run(replace(command, setup=setup), folder)
        if end.code != 0:
            yield f"{scenario.name}, clock set back {number}: {end.code} {end.output[-800:]}"
        yield from differences(expected, snapshot(folder))


def together(scenario: Scenario, top: Path, count: int) -> Faults:
    """The same command several times at once, in one folder: each run once."""
    expected = _expected(scenario, top)
    runs = sum(name.endswith(".safetensors") for name in expected)
    folder, command = _new(scenario, top, f"together-{count}")
    processes = []
    for number in range(count):
        processes.append(Process(command, folder))
        time.sleep(0.2 * number)
    done = 0
    for process in processes:
        end = process.wait()
        done += end.output.count(" ok=") - end.output.count("finished meanwhile")
        if end.code != 0:
            yield f"{scenario.name}, {count} at once: {end.code} {end.output[-800:]}"
    if done != runs:
        yield f"{scenario.name}, {count} at once: {done} runs done, {runs} wanted"
    yield from differences(expected, snapshot(folder))


def _expected(scenario: Scenario, top: Path) -> Snapshot:
    folder, command = _new(scenario, top, "expected")
    end = run(command, folder)
    assert end.code == 0, end.output
    return snapshot(folder)


def _new(scenario: Scenario, top: Path, name: str) -> tuple[Path, Command]:
    folder = Path(tempfile.mkdtemp(dir=top)) / name
    folder.mkdir()
    return folder, scenario.prepare(folder)


def _before(command: Command, change: Callable[[], None]) -> Callable[[], None]:
    def setup() -> None:
        command.setup()
        change()

    return setup


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _set_back() -> None:
    real = time.time
    time.time = lambda: real() - BACK_S
