"""Lists, verifies, prepares, fetches and caches the data of petlbench.

docs/data.md describes the data of each suite; the project itself hosts no data.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from petlbench.arguments import MISTYPED, Parser, command
from petlbench.commands.data.suites import NoImages
from petlbench.config import mistakes
from petlbench.errors import UserError
from petlbench.interrupts import end, reader_may_end
from petlbench.progress import say
from petlbench.system import user_path

WRONG = 1  # exit status
WIDTH = 140  # characters if the output is not a terminal
SIZE = 224  # pixels; the input size of most backbones
EXAMPLES = """examples:
  petlbench data list vtab
  petlbench data fetch https://HOST/vtab-1k.zip --sha256 HEX
  petlbench data prepare vtab vtab-1k.zip --root /data
  petlbench data verify vtab --root /data
  petlbench data cache vtab --root /data
"""
ROOT_HELP = """folder that holds vtab/, fewshot/, dg/ (default: PETLBENCH_DATA, or data);
for the suite folder, the folder of your own images"""


def parser() -> argparse.ArgumentParser:
    """The subcommands and their options."""
    top = Parser(
        prog="petlbench data",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = _add(commands, "list", "show what each suite needs, what exists, the disk space")
    listing.add_argument("suite", nargs="?", help="a suite or task (default: all suites)")
    verify = _add(commands, "verify", "check lists and images; exit status 1 if any is wrong")
    verify.add_argument("suite", help="a suite or task: vtab, vtab/cifar, fewshot, dg, folder")
    verify.add_argument(
        "--allow-duplicates",
        action="store_true",
        help="report images that two splits share as a note, for sources that repeat images",
    )
    prepare = _add(commands, "prepare", "unpack archives, or arrange lists and images")
    prepare.add_argument("suite", help="a suite or task, for example vtab or fewshot/pets")
    prepare.add_argument("archive", nargs="*", help="zip or tar files")
    prepare.add_argument("--lists", metavar="DIR", help="instead: folders of lists")
    prepare.add_argument("--images", metavar="DIR", help="and folders of images")
    cache = _add(commands, "cache", "decode all images once, before the first run")
    cache.add_argument("suite", help="a suite or task")
    for subcommand in (listing, verify, prepare, cache):
        subcommand.add_argument("--root", metavar="DIR", help=ROOT_HELP)
    for subcommand in (listing, cache):
        subcommand.add_argument(
            "--size",
            type=int,
            default=SIZE,
            help="pixels, as input.size of the runs (%(default)s)",
        )
    fetch = _add(commands, "fetch", "download one file and check its SHA-256")
    fetch.add_argument("url", help="http(s)://... or hf://datasets/OWNER/REPOSITORY/FILE")
    fetch.add_argument("--sha256", required=True, metavar="HEX", help="of the file")
    fetch.add_argument(
        "--to", default=".", metavar="PATH", help="FOLDER/ or file (default: this folder)"
    )
    return top


def _add(commands: Any, name: str, description: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=description, description=description
    )
    added.add_argument("--json", action="store_true", help="print one JSON object")
    return added


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The report of a subcommand; each imports its own modules, because torch takes seconds."""
    if arguments.command == "fetch":
        from petlbench.commands.data.fetch import fetch

        return fetch(arguments.url, arguments.sha256, arguments.to)
    root = _path("--root", arguments.root)
    if arguments.command == "prepare":
        return _prepare(arguments, root)
    if arguments.command == "verify":
        from petlbench.commands.data.verify import verify

        return verify(arguments.suite, root, arguments.allow_duplicates)
    if arguments.command == "cache":
        from petlbench.commands.data.caching import cache

        return cache(arguments.suite, root, arguments.size)
    from petlbench.commands.data.listing import listing

    return listing(arguments.suite, root, arguments.size)


def _prepare(arguments: argparse.Namespace, root: Path | None) -> dict[str, Any]:
    from petlbench.commands.data import prepare

    archives = [user_path("an archive", archive) for archive in arguments.archive]
    lists, images = _path("--lists", arguments.lists), _path("--images", arguments.images)
    if archives and lists is None and images is None:
        return prepare.from_archives(arguments.suite, archives, root)
    if lists is not None and images is not None and not archives:
        return prepare.from_lists(arguments.suite, lists, images, root)
    raise UserError("prepare takes archives, or --lists DIR and --images DIR")


def _path(option: str, value: str | None) -> Path | None:
    return None if value is None else user_path(option, value)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Exit status: 0 if all is right, 1 if data are wrong, 2 for a mistake of the user, 130 after
    Ctrl-C.
    """
    parsed = parser().parse_args(arguments)
    # to stderr: stdout holds the report alone
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        # `list`: no keys to suggest, since the user sets none in this command
        with mistakes.as_user_errors(list):
            report = run(parsed)
    except NoImages as error:
        return _fail(f"error: {error}", MISTYPED)
    except KeyboardInterrupt:
        return end("interrupted; the same command continues where it ended")
    with reader_may_end():
        _print(report, as_json=parsed.json)
    return 0 if report["ok"] else WRONG


def _fail(line: str, status: int) -> int:
    say(line)
    return status


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=1), flush=True)
    else:
        from petlbench.commands.data.show import SHOWS

        SHOWS[report["command"]](report, Console(width=None if sys.stdout.isatty() else WIDTH))
