"""Tables from records: accuracy of each method on each task, both means, costs.

Writes NAME.csv (the table), NAME_tidy.csv (a row per record and test set), NAME.tex and NAME.md,
and prints the table. Averages run over draws and seeds, never over settings.
"""

import argparse
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from petlbench.errors import UserError
from petlbench.record import Record, Store, write_atomically
from petlbench.report import latex, markdown, terminal
from petlbench.report.table import Table, build

WIDTH = 110  # characters where the output is no terminal
EXAMPLE = "example: python -m petlbench.report --records results/runs --out results --name first"


def read(folders: Sequence[Path]) -> list[Record]:
    """The records of several folders, each run once; a finished one wins over a failed one."""
    found: dict[str, Record] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder '{folder}'; --records takes the results.root of a sweep")
        for record in Store(folder).records():
            if found.get(record["id"], {}).get("status") != "finished":
                found[record["id"]] = record
    if not found:
        raise UserError(
            f"no records in {', '.join(map(str, folders))}; "
            "python -m petlbench -m method=linear,lora dataset=mini makes some in results/runs"
        )
    return list(found.values())


def check(name: str, out: Path) -> None:
    """Refuse a name or a folder that cannot take the files, before the work."""
    if not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
        raise UserError(
            f"--name '{name}' is no name for files; use letters, digits, '_', '-', '.'"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out, prefix=".tmp-"):
            pass
    except OSError as error:
        raise UserError(
            f"--out '{out}' cannot be written ({error.strerror}); give a folder with permission"
        ) from error


def write(table: Table, name: str, out: Path, made_by: str) -> list[Path]:
    """All files of a table; the paths that were written."""
    wide = table.values[[column.key for column in table.columns]]
    wide.insert(0, "backbone", [table.backbones[row] for row in table.rows])
    contents = {
        f"{name}.csv": wide.to_csv(index_label="method"),
        f"{name}_tidy.csv": table.tidy.to_csv(index=False),
        f"{name}.tex": latex.render(table, name, made_by),
        f"{name}.md": markdown.render(table),
    }
    for file, content in contents.items():
        write_atomically(out / file, content.encode())
    return [out / file for file in contents]


def show(table: Table) -> None:
    """Print the table and what stands below it."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for shown in terminal.render(table, console.width):
        console.print(shown, "")
    for line in table.lines():
        console.print(line, style="dim", highlight=False, markup=False)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m petlbench.report",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--records",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of records: the results.root of runs and sweeps",
    )
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    made.add_argument("--name", required=True, help="of the files, and of the LaTeX label")
    made.add_argument("--suite", help="for example mini; default: the one with most records")
    made.add_argument(
        "--protocol", default="final", help="records of others are left out (default: final)"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write one table; a mistake of the user is one line on stderr and status 1."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    chosen = parser().parse_args(given)
    try:
        records = read(chosen.records)
        suite = chosen.suite or Counter(r["suite"] for r in records).most_common(1)[0][0]
        table = build(records, suite=suite, protocol=chosen.protocol)
        check(chosen.name, chosen.out)
        made_by = shlex.join(["python", "-m", "petlbench.report", *given])
        paths = write(table, chosen.name, chosen.out, made_by)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(table)
    print("\n".join(f"wrote {path}" for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
