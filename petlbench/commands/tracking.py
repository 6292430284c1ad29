"""python -m petlbench.tracking push: send records to Weights & Biases.

W&B gets one run for each record, under the id of the record. A record that it has is not sent
again, so the same command does the rest after a stop.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from petlbench.arguments import MISTYPED, Parser
from petlbench.config import compose
from petlbench.config.construct import build
from petlbench.config.schema import WandbConfig
from petlbench.errors import UserError
from petlbench.interrupts import one_line
from petlbench.progress import progress, say
from petlbench.run.record import Record, Store
from petlbench.run.tracking import Outbox

EXAMPLE = "example: python -m petlbench.tracking push --records results/runs"
Place = tuple[str | None, str]  # entity, project
Addressed = tuple[Record, WandbConfig]  # a record and where it goes


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; an error is one line on stderr. Exit status: 2 for a mistake, else 0."""
    options = parser().parse_args(arguments)
    try:
        push(options)
    except UserError as error:
        say(f"error: {error}")
        return MISTYPED
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    whole = Parser(prog="python -m petlbench.tracking", description=__doc__, epilog=EXAMPLE)
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser("push", help="send records that W&B does not have")
    command.add_argument(
        "--records", nargs="+", required=True, metavar="DIR", help="the results.root of runs"
    )
    for key in ("project", "entity", "group"):
        command.add_argument(f"--{key}", help=f"default: wandb.{key} of each record")
    return whole


def push(options: argparse.Namespace) -> None:
    """Send what W&B lacks. Raises UserError if there are no records or W&B refuses one."""
    given = {key: getattr(options, key) for key in ("project", "entity", "group")}
    changes = {key: value for key, value in given.items() if value is not None}
    defaults = asdict(compose.single([]).wandb)
    places: dict[Place, list[Addressed]] = {}
    for record in read(options.records):
        node = defaults | (record["config"].get("wandb") or {})
        settings = replace(build(WandbConfig, node, "wandb"), **changes)
        places.setdefault((settings.entity, settings.project), []).append((record, settings))
    with tempfile.TemporaryDirectory(prefix="petlbench-wandb-") as folder:
        for place, addressed in places.items():
            _send(Outbox(*place, folder), addressed)


def _send(outbox: Outbox, addressed: Sequence[Addressed]) -> None:
    to_send = [(record, settings) for record, settings in addressed if not outbox.has(record)]
    there = len(addressed) - len(to_send)
    say(f"{outbox.project}: {len(addressed)} records, {there} there already")
    for record, settings in progress(to_send, "sent", len(to_send)):
        outbox.send(record, settings)
    if to_send:
        say(f"{outbox.project}: {len(to_send)} sent")


def read(folders: Sequence[str]) -> list[Record]:
    """The records of runs that took place, each id once. Raises UserError if there are none."""
    found: dict[str, Record] = {}
    for folder in folders:
        if not Path(folder).expanduser().is_dir():
            raise UserError(f"--records '{folder}' is no folder; give the results.root of runs")
        for record in Store(folder).records():
            if record["status"] == "unsupported":
                continue
            # of two roots, a finished run replaces one that failed
            if found.get(record["id"], {}).get("status") != "finished":
                found[record["id"]] = record
    if not found:
        raise UserError(f"no records in {', '.join(folders)}; give the results.root of runs")
    return list(found.values())


if __name__ == "__main__":
    sys.exit(main())
