"""The plans of sweeps, kept below results.root so that `petlbench.status` knows what is to do.

A plan is the file `.plans/NAME` in JSON, named by a hash of its runs: the same sweep replaces it.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from petlbench.sweep.estimate import Work
from petlbench.sweep.plan import BROKEN, UNSUPPORTED, Planned
from petlbench.system import WriteError, write_atomically

FOLDER = ".plans"
log = logging.getLogger("petlbench")


@dataclass(frozen=True)
class Kept:
    """A planned run; name: unlike all others below its root."""

    name: str
    work: Work


def keep(runs: Sequence[Planned]) -> None:
    """Write the plan of each results.root; a plan that cannot be written stops no sweep."""
    by_root: dict[str, dict[str, object]] = {}
    for run in runs:
        if run.state not in (UNSUPPORTED, BROKEN):
            entry = {"name": run.full_name, **asdict(Work.of(run.config))}
            by_root.setdefault(run.config.results.root, {})[run.id] = entry
    for root, names in by_root.items():
        digest = hashlib.sha256("".join(sorted(names)).encode()).hexdigest()[:16]
        try:
            path = Path(root).expanduser() / FOLDER / digest
            write_atomically(path, json.dumps(names, indent=0).encode())
        except WriteError as error:
            log.warning("%s; petlbench.status will not know what is to do", error)


def read(root: Path) -> dict[str, Kept]:
    """All planned runs below a root, by their identity."""
    found: dict[str, Kept] = {}
    for path in sorted((root / FOLDER).glob("[!.]*")):
        try:
            content = json.loads(path.read_text())
            found |= {str(key): _kept(entry) for key, entry in content.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            log.warning("skipped: plan '%s' cannot be read", path)
    return found


def _kept(entry: Mapping[str, Any]) -> Kept:
    method, backbone, suite = (str(entry[key]) for key in ("method", "backbone", "suite"))
    return Kept(str(entry["name"]), Work(method, backbone, suite, int(entry["epochs"])))
