"""What is done, running, failed and to do below a results.root.

Reads records, the claims of running processes and the plans of sweeps; changes nothing. A run that
failed is tried again by the same sweep.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from petlbench.arguments import Parser, command
from petlbench.checks import is_number
from petlbench.errors import UserError
from petlbench.run.claims import Claims, Owner
from petlbench.run.record import Record, Store
from petlbench.sweep import plans
from petlbench.sweep.eta import duration

EXAMPLE = "example: petlbench status --records results/runs"
SHOWN = 20  # failures on the terminal
REACHED = ("finished", "unsupported")  # states that the same sweep leaves as they are


@dataclass(frozen=True)
class Status:
    """Runs below a root by their state, as `METHOD on BACKBONE TASK seed N`.

    to_do: None without a plan. hours_spent: of finished and failed runs. hours_left: of running
    and open runs one after another, each as long as the mean of its method; None without a
    finished run.
    """

    root: str
    done: int
    running: dict[str, Owner]
    failed: dict[str, str]
    unsupported: int
    to_do: list[str] | None
    hours_spent: float
    hours_left: float | None


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; an error is one line on stderr. Exit status: 2 for a mistake, else 0."""
    options = parser().parse_args(arguments)
    found = [status(folder) for folder in options.records]
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        print("\n\n".join("\n".join(lines(one)) for one in found))
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = Parser(prog="petlbench status", description=__doc__, epilog=EXAMPLE)
    options.add_argument(
        "--records", nargs="+", required=True, metavar="DIR", help="the results.root of sweeps"
    )
    options.add_argument("--json", action="store_true", help="JSON with all names")
    return options


def status(folder: str) -> Status:
    """The state of all runs below a root. Raises UserError if it is no folder."""
    root = Path(folder).expanduser()
    if not os.path.isdir(root):  # unlike Path.is_dir it accepts names of any length
        raise UserError(f"--records '{folder}' is no folder; give the results.root of a sweep")
    records = {record["id"]: record for record in Store(root).records()}
    names = plans.read(root)
    states = {
        state: [record for record in records.values() if record["status"] == state]
        for state in {record["status"] for record in records.values()}
    }
    done = {record["id"] for record in states.get("finished", [])}
    owners = {key: who for key, who in Claims(root).owners().items() if key not in done}
    unsupported = states.pop("unsupported", [])
    failed = [record for record in records.values() if record["status"] not in REACHED]
    open_runs = {key: name for key, name in names.items() if key not in {*records, *owners}}
    ran = [record for record in records.values() if record["status"] != "unsupported"]
    seconds = [value for record in ran if is_number(value := record["provenance"].get("seconds"))]
    waiting = [*(names.get(key, "") for key in owners), *open_runs.values()]
    return Status(
        root=folder,
        done=len(done),
        running={_name(key, names, records): who for key, who in owners.items()},
        failed={
            _name(record["id"], names, records): f"{record['status']}: {record['reason']}"
            for record in failed
            if record["id"] not in owners
        },
        unsupported=len(unsupported),
        to_do=list(open_runs.values()) if names else None,
        hours_spent=sum(seconds) / 3600,
        hours_left=_hours(waiting, states.get("finished", [])) if names else None,
    )


def lines(found: Status) -> list[str]:
    """The state in lines for a terminal."""
    shown = [found.root]
    spent = duration(3600 * found.hours_spent)
    shown.append(f"  {found.done:6} done, {spent} of runs")
    shown.append(f"  {len(found.running):6} running")
    shown += [f"         {name}: {who}" for name, who in found.running.items()]
    shown.append(f"  {len(found.failed):6} failed")
    shown += [f"         {name}: {why}" for name, why in list(found.failed.items())[:SHOWN]]
    if len(found.failed) > SHOWN:
        shown.append(f"         and {len(found.failed) - SHOWN} more; --json names all")
    if found.unsupported:
        shown.append(f"  {found.unsupported:6} unsupported")
    if found.to_do is None:
        shown.append("       ? to do: no sweep has left its plan here")
    else:
        left = found.hours_left
        time = f", about {duration(3600 * left)} of runs" if left is not None else ""
        shown.append(f"  {len(found.to_do):6} to do{time}")
    return shown


def _name(key: str, names: Mapping[str, str], records: Mapping[str, Record]) -> str:
    if key in names:
        return names[key]
    if key not in records:
        return f"run {key}"
    factors = records[key]["factors"]
    return f"{_pair(records[key])} {factors['task']} seed {factors['seed']}"


def _pair(record: Record) -> str:
    return f"{record['factors']['method']} on {record['factors']['backbone']}"


def _hours(waiting: Sequence[str], finished: Sequence[Record]) -> float | None:
    """Of runs by their names, from the mean of their method on their backbone, else of all."""
    times: dict[str, list[float]] = {}
    for record in finished:
        seconds: Any = record["provenance"].get("seconds")
        times.setdefault(_pair(record), []).append(float(seconds))
    if not times:
        return None
    every = [value for values in times.values() for value in values]
    mean = sum(every) / len(every)
    means = {pair: sum(values) / len(values) for pair, values in times.items()}
    return sum(means.get(" ".join(name.split(" ")[:3]), mean) for name in waiting) / 3600


if __name__ == "__main__":
    sys.exit(main())
