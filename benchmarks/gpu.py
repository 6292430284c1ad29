"""What the switches of docs/speed.md do on a GPU: times, memory and losses, in one call.

    python -m benchmarks.gpu                          all tables; ends after ten minutes
    python -m benchmarks.gpu --table Compile --out FOLDER      one table
    python -m benchmarks.gpu --device cpu --quick --out FOLDER     a trial without a GPU
    python -m benchmarks.page                         the page from the record

ViT-B/16 with random weights on noise, 32 images in bf16. The record is written before and after
each row. A row that fails, with which the process ends, or for which no time is left, is named in
it with its reason. A kernel that hangs ends the process a minute after the time. Needs no data and
no weights.
"""

import argparse
import faulthandler
import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from benchmarks.__main__ import FOLDER, TINY, VIT_B
from benchmarks.compare import Setting
from benchmarks.gpu_cases import CASES, TABLES, Case
from petlbench.cost.memory import free_unused
from petlbench.errors import UserError, first_line
from petlbench.run import build, provenance
from petlbench.system import replacing
from petlbench.units import GIB

FILE = "gpu.json"
AGAIN_S = 1.0  # between two alarms: an exception in a destructor or a callback is lost
GRACE_S = 60.0  # of a row that no alarm ends, such as a kernel that hangs
RUNNING = "the process ended while it ran"


class OutOfTime(BaseException):
    """No time is left; no Exception, which a compiler would take for its own."""


class Warnings(logging.Handler):
    """Keeps what petlbench warns of, such as a compiler that fails."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Hook of logging."""
        self.lines.append(record.getMessage())

    def taken(self) -> list[str]:
        """The warnings since the last call."""
        lines, self.lines = self.lines, []
        return lines


def setting(options: argparse.Namespace) -> Setting:
    """The conditions that the options name."""
    if options.quick:
        return Setting(TINY, 4, 1, options.device, "bf16")
    return Setting(VIT_B, 32, options.repeats, options.device, "bf16")


def about(conditions: Setting) -> dict[str, Any]:
    """Where and of what the rows are measured."""
    device = build.device(conditions.device)
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "device": provenance.device_name(device),
        "memory_gib": None if gpu is None else gpu.total_memory / GIB,
        "capability": None if gpu is None else f"{gpu.major}.{gpu.minor}",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": provenance.versions(),
        "network": list(conditions.network),
        "batch": conditions.batch,
        "precision": conditions.precision,
        "repeats": conditions.repeats,
    }


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after so many seconds, where the system has alarms."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def row(case: Case, conditions: Setting, left_s: float, heard: Warnings) -> dict[str, Any]:
    """A row, or its name and why it is not measured."""
    if left_s <= 0:
        return {"name": case.name, "not_run": "no time was left"}
    try:
        with limited(left_s):
            free_unused(build.device(conditions.device))
            found = case.measure(conditions)
    except OutOfTime:
        found = {"not_run": f"it did not end in the {left_s:.0f} s left"}
    except Exception as error:  # whatever a GPU, a driver or a compiler raises
        found = {"not_run": f"{type(error).__name__}: {first_line(error)}"}
    warnings = heard.taken()
    return {"name": case.name, **found, **({"warnings": warnings} if warnings else {})}


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The record before and after each row."""
    conditions, heard = setting(options), Warnings()
    record = about(conditions) | {"tables": {}}
    end = time.monotonic() + 60 * options.minutes
    logging.getLogger("petlbench").addHandler(heard)
    for case in CASES:
        if case.table not in (options.table or TABLES):
            continue
        started = time.monotonic()
        print(f"{case.table}: {case.name} ...", flush=True)
        rows = record["tables"].setdefault(case.table, [])
        rows.append({"name": case.name, "not_run": RUNNING})
        yield record
        rows[-1] = found = row(case, conditions, end - started, heard)
        print(f"  {found.get('not_run', 'done')} ({time.monotonic() - started:.1f} s)", flush=True)
        yield record
    logging.getLogger("petlbench").removeHandler(heard)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ... or cpu")
    parser.add_argument("--minutes", type=float, default=10, help="time for all (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps (default: 5)")
    parser.add_argument("--quick", action="store_true", help="a tiny network, to try the script")
    parser.add_argument("--table", action="append", choices=TABLES, help="may be repeated")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the record")
    options = parser.parse_args()
    if (options.table or options.quick) and options.out == FOLDER:
        parser.error(f"the record in {FOLDER} has all tables of ViT-B/16; give another --out")
    try:
        build.device(options.device)
    except UserError as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / FILE
    # its thread needs no Python, and so also ends a process that waits for a kernel
    stderr = 2
    faulthandler.dump_traceback_later(60 * options.minutes + GRACE_S, exit=True, file=stderr)
    try:
        for record in measured(options):
            with replacing(path) as file:
                file.write((json.dumps(record, indent=1) + "\n").encode())
    finally:
        faulthandler.cancel_dump_traceback_later()
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
