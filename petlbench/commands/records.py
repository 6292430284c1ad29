"""Check whether records can be contributed.

PATH is a record or a folder of records. Each must be a finished run in the schema of this version,
with its provenance, without a path of a machine, of a known method, with labels and the identity
that its values have, scores that its test sets allow, and parameters as they are counted on its
network. Prints a line for each fault; exit status 0 without a fault, 1 with one, 2 for a mistake.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from petlbench.arguments import Parser, command
from petlbench.commands.contribution import faults
from petlbench.errors import UserError
from petlbench.run.record import NoRecord, Record, Store, read
from petlbench.system import check_readable, user_path

EXAMPLE = "example: petlbench records check results/community"
FAULTY = 1
LARGEST_MB = 20  # of a file; records of long trainings have some hundred kB


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a mistake is one line on stderr."""
    options = parser().parse_args(arguments)
    files = list(dict.fromkeys(file for path in options.paths for file in found(path)))
    first: dict[str, Path] = {}  # the file of each identity
    lines = [f"{file}: {fault}" for file in files for fault in _checked(file, first)]
    print("\n".join([*lines, f"{len(files)} records, {len(lines)} faults"]))
    return FAULTY if lines else 0


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = Parser(
        prog="petlbench records",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = options.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="print what is wrong with records")
    check.add_argument("paths", nargs="+", metavar="PATH", help="record or folder")
    return options


def found(name: str) -> list[Path]:
    """The record, or the records below a folder. Raises UserError if there is none."""
    path = user_path("PATH", name)
    check_readable("PATH", path)
    files = [path] if path.is_file() else list(Store(path).files())
    if not files:
        raise UserError(f"'{path}' is no record and no folder of records; name one of both")
    return files


def _checked(file: Path, first: dict[str, Path]) -> Iterator[str]:
    """The faults of a file. first: the file of each identity so far."""
    try:
        record = _read(file)
    except NoRecord as error:
        yield str(error)
        return
    yield from faults(file, record)
    if (other := first.setdefault(record["id"], file)) != file:
        yield f"the same run as {other}"


def _read(file: Path) -> Record:
    if file.stat().st_size > LARGEST_MB * 1e6:
        raise NoRecord(f"it has more than {LARGEST_MB} MB, which no record of a run has")
    return read(file)
