"""The report of `petlbench try`, and what to do with the best method."""

import shlex
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from statistics import mean

from petlbench.report import registry
from petlbench.report.read.records import read
from petlbench.report.render import terminal
from petlbench.report.render.files import write
from petlbench.run.record import DELTA, Record, Store

REPORT = "leaderboard"


def report(runs: Path, identities: Collection[str], out: Path, command: str) -> list[str]:
    """Write and print the report on runs with some identities; returns the lines that follow it.

    The folder may hold runs of other settings, which no table averages. Raises UserError if no
    run has a result.
    """
    records = [record for record in read([runs]) if record["id"] in identities]
    found = registry.build(records, replace(registry.find(REPORT), suite="folder"))
    paths = write(found, REPORT, out, command)
    terminal.show(found)
    return [*(f"wrote {path}" for path in paths), *_next(records, Store(runs))]


def _next(records: Collection[Record], store: Store) -> list[str]:
    """The command that classifies new images with the method of the highest mean."""
    scores: dict[str, list[float]] = {}
    for record in records:
        if record["status"] == "finished":
            score = record["scores"]["test"]["top1"]
            scores.setdefault(record["factors"]["method"], []).append(score)
    if not scores:
        return []
    best = max(scores, key=lambda method: mean(scores[method]))
    own = (record for record in records if record["factors"]["method"] == best)
    delta = next((path for one in own if (path := store.path(one, DELTA)).is_file()), None)
    if delta is None:
        return []
    return [f"new images: petlbench predict --delta {shlex.quote(str(delta))} FOLDER"]
