"""The plans of sweeps, kept below results.root so that `petlbench.status` knows what is to do.

A plan is the file `.plans/NAME` in JSON, named by a hash of its runs: the same sweep replaces it.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from petlbench.sweep.plan import BROKEN, UNSUPPORTED, Planned
from petlbench.system import WriteError, write_atomically

FOLDER = ".plans"
log = logging.getLogger("petlbench")


def keep(runs: Sequence[Planned]) -> None:
    """Write the plan of each results.root; a plan that cannot be written stops no sweep."""
    by_root: dict[str, dict[str, str]] = {}
    for run in runs:
        if run.state not in (UNSUPPORTED, BROKEN):
            by_root.setdefault(run.config.results.root, {})[run.id] = run.full_name
    for root, names in by_root.items():
        digest = hashlib.sha256("".join(sorted(names)).encode()).hexdigest()[:16]
        try:
            path = Path(root).expanduser() / FOLDER / digest
            write_atomically(path, json.dumps(names, indent=0).encode())
        except WriteError as error:
            log.warning("%s; petlbench.status will not know what is to do", error)


def read(root: Path) -> dict[str, str]:
    """The names of all planned runs below a root, by their identity."""
    names: dict[str, str] = {}
    for path in sorted((root / FOLDER).glob("*")):
        try:
            content = json.loads(path.read_text())
            names |= {str(key): str(name) for key, name in content.items()}
        except (OSError, ValueError, AttributeError, RecursionError):
            log.warning("skipped: plan '%s' cannot be read", path)
    return names
