"""python -m tests.torture [--kills 200] [--seed 0] [--only NAME ...] [--out FILE]

Prints the figures of each attack as JSON, and each fault in a line. Exit code 1 if there is one.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process must not inherit a pool of threads

import torch

import petlbench.commands.data.main
import petlbench.predict
import petlbench.report.__main__
import petlbench.run.training
import petlbench.sweep.perform  # noqa: F401
from petlbench.run import provenance
from tests.torture import damage, determinism, kills, places, scenarios, workers
from tests.torture.processes import Command
from tests.torture.scenarios import Scenario

SHARES = {"sweep": 8, "own images": 4, "report": 3, "prepare": 3, "fetch": 2}  # of the kills
Figures = dict[str, int]


def main() -> int:
    options = parser().parse_args()
    out = Path(options.out) if options.out else None
    figures: dict[str, dict[str, Any]] = {}
    if out and options.only and out.is_file():  # the others keep theirs
        figures = json.loads(out.read_text())["attacks"]
    about = {
        "kills": options.kills,
        "seed": options.seed,
        "device": f"{os.cpu_count()} cores of {provenance.device_name(torch.device('cpu'))}",
        "commit": provenance.versions()["commit"],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    with tempfile.TemporaryDirectory() as folder, scenarios.served(Path(folder)) as (url, sha256):
        known = attacks(partial(scenarios.fetch, url, sha256), options.kills, options.seed)
        for name, attack in known.items():
            if options.only and name not in options.only:
                continue
            started = time.monotonic()
            figures[name] = attack() | {"seconds": round(time.monotonic() - started)} | about
            print(name, figures[name], flush=True)
            if out:  # now, so that a stop costs the attack that it stops
                out.write_text(_report(figures))
    print(_report(figures))
    return 1 if any(one["faults"] for one in figures.values()) else 0


def _report(figures: dict[str, dict[str, Any]]) -> str:
    result = {
        "faults": sum(one["faults"] for one in figures.values()),
        "attacks": figures,
        "versions": provenance.versions(),
    }
    return json.dumps(result, indent=1) + "\n"


def attacks(
    fetch: Callable[[Path], Command], stops: int, seed: int
) -> dict[str, Callable[[], Figures]]:
    """All attacks, by name."""
    known = {
        "sweep": Scenario("sweep", scenarios.sweep),
        "own images": Scenario("own images", scenarios.images_of_a_folder),
        "report": Scenario("report", scenarios.report),
        "prepare": Scenario("prepare", scenarios.prepare),
        "fetch": Scenario("fetch", fetch),
    }
    found: dict[str, Callable[[], Figures]] = {
        f"kills: {name}": partial(_kills, scenario, stops, seed)
        for name, scenario in known.items()
    }
    kinds: dict[str, Callable[[Scenario, Path], Iterator[str]]] = {
        "small disk": places.small_disk,
        "names": places.names,
        "clock": places.clock,
    }
    for kind, attack in kinds.items():
        for name in ("sweep", "own images"):
            found[f"{kind}: {name}"] = partial(_counted, partial(attack, known[name]))
    for count in (2, 4):
        attack = partial(places.together, known["sweep"], count=count)
        found[f"{count} sweeps at once"] = partial(_counted, attack)
    found["workers killed"] = partial(_counted, workers.attack)
    found["damaged files"] = _damaged
    found["determinism"] = partial(_counted, determinism.attack)
    return found


def _kills(scenario: Scenario, stops: int, seed: int) -> Figures:
    """SIGKILLs, and a quarter as many of SIGINT and of SIGTERM."""
    share = max(1, stops * SHARES[scenario.name] // sum(SHARES.values()))
    which = [signal.SIGKILL] * share + [signal.SIGINT, signal.SIGTERM] * (share // 4)
    return kills.attack(scenario, which, seed)


def _counted(attack: Callable[[Path], Iterator[str]]) -> Figures:
    """Figures of an attack that yields a line for each fault."""
    faults = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as top:
        for fault in attack(Path(top)):
            faults += 1
            print(fault, flush=True)
    return {"faults": faults}


def _damaged() -> Figures:
    figures = {"tried": 0, "faults": 0}
    with tempfile.TemporaryDirectory(prefix="torture-") as top:
        for kind, text in damage.attack(Path(top)):
            figures["tried" if kind == "tried" else "faults"] += 1
            if kind != "tried":
                print(text, flush=True)
    return figures


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", nargs="+", metavar="NAME")
    options.add_argument("--out", metavar="FILE")
    return options


if __name__ == "__main__":
    sys.exit(main())
