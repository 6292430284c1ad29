"""Data for petlbench: what is there, whether it is right, and how it gets where it belongs.

docs/data.md tells it suite by suite; the project itself hosts no data.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from petlbench.config import mistakes
from petlbench.errors import UserError
from petlbench.progress import say

WRONG, INTERRUPTED = 1, 130
WIDTH = 140  # characters where the output is no terminal
SIZE = 224  # pixels; what most backbones take
EXAMPLES = """examples:
  python -m petlbench.data list vtab
  python -m petlbench.data fetch https://HOST/vtab-1k.zip --sha256 HEX
  python -m petlbench.data prepare vtab vtab-1k.zip --root /data
  python -m petlbench.data verify vtab --root /data
  python -m petlbench.data cache vtab --root /data
"""
ROOT_HELP = """folder that holds vtab/, fewshot/, dg/ (default: PETLBENCH_DATA, or data);
for the suite folder, the folder of your own images"""


def parser() -> argparse.ArgumentParser:
    """The subcommands and their options."""
    made = argparse.ArgumentParser(
        prog="python -m petlbench.data",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = _add(commands, "list", "what each suite needs, what is there, the disk it takes")
    listing.add_argument("suite", nargs="?", help="a suite or task (default: all suites)")
    verify = _add(commands, "verify", "check lists and images; exits with 1 if anything is wrong")
    verify.add_argument("suite", help="a suite or task: vtab, vtab/cifar, fewshot, dg, folder")
    verify.add_argument(
        "--allow-duplicates",
        action="store_true",
        help="images that two splits share are a note, for sources that repeat images",
    )
    prepare = _add(commands, "prepare", "unpack archives, or lay out lists and images, as needed")
    prepare.add_argument("suite", help="a suite or task, for example vtab or fewshot/pets")
    prepare.add_argument("archive", type=Path, nargs="*", help="zip or tar files")
    prepare.add_argument("--lists", type=Path, metavar="DIR", help="instead: folders of lists")
    prepare.add_argument("--images", type=Path, metavar="DIR", help="and folders of images")
    cache = _add(commands, "cache", "decode all images once, before the first run")
    cache.add_argument("suite", help="a suite or task")
    for command in (listing, verify, prepare, cache):
        command.add_argument("--root", type=Path, metavar="DIR", help=ROOT_HELP)
    for command in (listing, cache):
        command.add_argument(
            "--size",
            type=int,
            default=SIZE,
            help="pixels, as input.size of the runs (%(default)s)",
        )
    fetch = _add(commands, "fetch", "download one file, resumed and checked")
    fetch.add_argument("url", help="http(s)://... or hf://datasets/OWNER/REPOSITORY/FILE")
    fetch.add_argument("--sha256", required=True, metavar="HEX", help="of the file")
    fetch.add_argument(
        "--to", default=".", metavar="PATH", help="FOLDER/ or file (default: this folder)"
    )
    return made


def _add(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """What a subcommand reports; imports what it needs, for torch takes seconds."""
    if chosen.command == "fetch":
        from petlbench.commands.data.fetch import fetch

        return fetch(chosen.url, chosen.sha256, chosen.to)
    root = chosen.root.expanduser() if chosen.root else None
    if chosen.command == "prepare":
        from petlbench.commands.data import prepare

        if chosen.archive and not (chosen.lists or chosen.images):
            return prepare.from_archives(chosen.suite, chosen.archive, root)
        if chosen.lists and chosen.images and not chosen.archive:
            return prepare.from_lists(chosen.suite, chosen.lists, chosen.images, root)
        raise UserError("prepare takes archives, or --lists DIR and --images DIR")
    if chosen.command == "verify":
        from petlbench.commands.data.verify import verify

        return verify(chosen.suite, root, chosen.allow_duplicates)
    if chosen.command == "cache":
        from petlbench.commands.data.caching import cache

        return cache(chosen.suite, root, chosen.size)
    from petlbench.commands.data.listing import listing

    return listing(chosen.suite, root, chosen.size)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all is right, 1 something is wrong, 2 a mistyped command, 130 interrupted."""
    chosen = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        report = run(chosen)
    except UserError as error:
        say(f"error: {error}")
        return WRONG
    except (HydraException, OmegaConfBaseException) as error:
        say(f"error: {mistakes.explain(error, list)}")
        return WRONG
    except OSError as error:
        say(f"error: '{error.filename}': {error.strerror or error}")
        return WRONG
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept, the same command does the rest")
        return INTERRUPTED
    try:
        _print(report, as_json=chosen.json)
    except BrokenPipeError:  # the reader, for example `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if report["ok"] else WRONG


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=1), flush=True)
    else:
        from petlbench.commands.data.show import SHOWS

        SHOWS[report["command"]](report, Console(width=None if sys.stdout.isatty() else WIDTH))
