"""What is done, running, failed and to do below a results.root.

Reads records, the claims of running processes and the plans of sweeps; changes nothing. A run that
failed is tried again by the same sweep.
"""

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from petlbench.arguments import Parser, command
from petlbench.errors import UserError
from petlbench.run.claims import Claims, Owner
from petlbench.run.record import Record, Store
from petlbench.sweep import plans
from petlbench.sweep.estimate import Pace, duration, left, machine_of, seconds_of
from petlbench.system import check_readable

EXAMPLE = "example: petlbench status --records results/runs"
SHOWN = 20  # failures on the terminal
REACHED = ("finished", "unsupported")  # states that the same sweep leaves as they are


@dataclass(frozen=True)
class Status:
    """Runs below a root by their state, as `METHOD on BACKBONE TASK seed N`.

    to_do: None without a plan. hours_spent: of finished and failed runs. hours_left: of running
    and open runs one after another, on the machine of most finished ones; None without a plan or
    if no record tells. unknown: number of the runs whose time is not part of it.
    """

    root: str
    done: int
    running: dict[str, Owner]
    failed: dict[str, str]
    unsupported: int
    to_do: list[str] | None
    hours_spent: float
    hours_left: float | None
    unknown: int | None


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
    check_readable("--records", root)
    # a finished run wins over a failed one of the same identity
    order = sorted(Store(root).records(), key=lambda record: record["status"] == "finished")
    records = {record["id"]: record for record in order}
    kept = plans.read(root)
    by_state = _by_state(records.values())
    done = {record["id"] for record in by_state["finished"]}
    owners = {key: who for key, who in Claims(root).owners().items() if key not in done}
    to_do = [key for key in kept if key not in {*records, *owners}]
    works = Counter(kept[key].work if key in kept else None for key in (*owners, *to_do))
    rest = left(works, Pace(by_state["finished"]), machine_of(by_state["finished"]))
    return Status(
        root=folder,
        done=len(done),
        running={_name(key, kept, records): who for key, who in owners.items()},
        failed={
            _name(key, kept, records): f"{record['status']}: {record['reason']}"
            for key, record in records.items()
            if record["status"] not in REACHED and key not in owners
        },
        unsupported=len(by_state["unsupported"]),
        to_do=[kept[key].name for key in to_do] if kept else None,
        hours_spent=_spent(records.values()) / 3600,
        hours_left=rest.seconds / 3600 if kept and (rest.seconds or not rest.unknown) else None,
        unknown=rest.unknown if kept else None,
    )


def _by_state(records: Iterable[Record]) -> Mapping[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[record["status"]].append(record)
    return found


def _spent(records: Iterable[Record]) -> float:
    ran = (record for record in records if record["status"] != "unsupported")
    return sum(seconds_of(record) or 0.0 for record in ran)


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
        hours = found.hours_left
        time = f", about {duration(3600 * hours)} of runs" if hours is not None else ""
        time += f"; time of {found.unknown} unknown" if time and found.unknown else ""
        shown.append(f"  {len(found.to_do):6} to do{time}")
    return shown


def _name(key: str, kept: Mapping[str, plans.Kept], records: Mapping[str, Record]) -> str:
    if key in kept:
        return kept[key].name
    if key not in records:
        return f"run {key}"
    factors = records[key]["factors"]
    pair = f"{factors['method']} on {factors['backbone']}"
    return f"{pair} {factors['task']} seed {factors['seed']}"


if __name__ == "__main__":
    sys.exit(main())
