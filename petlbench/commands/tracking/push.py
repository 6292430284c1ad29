"""Sends records to Weights & Biases, and the mean accuracies of each group as a run of its own.

W&B gets one run for each record, under the id of the record. What it has is not sent again, so
the same command does the rest after a stop.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from petlbench.commands.tracking import means
from petlbench.config import compose
from petlbench.config.construct import build
from petlbench.config.job_nodes import WandbConfig
from petlbench.errors import UserError
from petlbench.progress import progress, say
from petlbench.run import wandb_run
from petlbench.run.outbox import Outbox
from petlbench.run.record import Record, Store

Place = tuple[str | None, str]  # entity, project
CHANGES = ("project", "entity", "group", "artifacts")  # keys of `wandb` that options change


@dataclass(frozen=True)
class Parcel:
    """A record, its files if they are to be sent, and where it goes."""

    record: Record
    files: list[Path]
    settings: WandbConfig

    @property
    def group(self) -> str:
        """The W&B group."""
        return wandb_run.group(self.record, self.settings)


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    command.add_argument(
        "--records", nargs="+", required=True, metavar="DIR", help="the results.root of runs"
    )
    for key in ("project", "entity", "group"):
        command.add_argument(f"--{key}", help=f"default: wandb.{key} of each record")
    command.add_argument(
        "--artifacts",
        action=argparse.BooleanOptionalAction,
        help="send records and deltas as artifacts (default: wandb.artifacts of each record)",
    )


def run(options: argparse.Namespace) -> None:
    """Send what W&B lacks. Raises UserError if there are no records or W&B refuses one."""
    given = {key: getattr(options, key) for key in CHANGES}
    changes = {key: value for key, value in given.items() if value is not None}
    places: dict[Place, list[Parcel]] = {}
    for parcel in parcels(options.records, changes):
        place = (parcel.settings.entity, parcel.settings.project)
        places.setdefault(place, []).append(parcel)
    with tempfile.TemporaryDirectory(prefix="petlbench-wandb-") as folder:
        for place, addressed in places.items():
            outbox = Outbox(*place, folder)
            _send(outbox, addressed)
            _send_means(outbox, addressed)


def parcels(folders: Sequence[str], changes: dict[str, Any]) -> list[Parcel]:
    """The records of runs that took place, each id once. changes: of their `wandb` node.

    Raises UserError if there are none.
    """
    defaults = asdict(compose.single([]).wandb)
    found: dict[str, Parcel] = {}
    for folder in folders:
        if not Path(folder).expanduser().is_dir():
            raise UserError(f"--records '{folder}' is no folder; give the results.root of runs")
        store = Store(folder)
        for record in store.records():
            if record["status"] == "unsupported":
                continue
            own = record["config"].get("wandb")
            node = defaults | (own if isinstance(own, dict) else {}) | changes
            settings = build(WandbConfig, node, "wandb")
            # of two roots, a finished run replaces one that failed
            other = found.get(record["id"])
            if other is None or other.record["status"] != "finished":
                files = store.kept(record) if settings.artifacts else []
                found[record["id"]] = Parcel(record, files, settings)
    if not found:
        raise UserError(f"no records in {', '.join(folders)}; give the results.root of runs")
    return list(found.values())


def _send(outbox: Outbox, addressed: Sequence[Parcel]) -> None:
    to_send = [one for one in addressed if not outbox.has(one.record, one.files)]
    there = len(addressed) - len(to_send)
    say(f"{outbox.project}: {len(addressed)} records, {there} there already")
    for one in progress(to_send, "sent", len(to_send)):
        outbox.send(one.record, one.settings, one.files)
    if to_send:
        say(f"{outbox.project}: {len(to_send)} sent")


def _send_means(outbox: Outbox, addressed: Sequence[Parcel]) -> None:
    groups: dict[str, list[Record]] = {}
    for one in addressed:
        groups.setdefault(one.group, []).append(one.record)
    for name, records in groups.items():
        say(f"{outbox.project}: means of group {name}: {means.send(outbox, name, records)}")
