"""Tables from records: python -m petlbench.report --records DIR --name NAME --out DIR.

Writes NAME.csv (the table), NAME_tidy.csv (a row per record and test set), NAME.tex and NAME.md,
and prints the table.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console

from petlbench.errors import UserError
from petlbench.record import Record, Store, write_atomically
from petlbench.report import latex, text
from petlbench.report.table import Table, build, tidy


def read(folders: list[Path]) -> list[Record]:
    """The records of several folders, each run once."""
    found: dict[str, Record] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder '{folder}'; --records takes the results.root of a sweep")
        found |= {record["id"]: record for record in Store(folder).records()}
    if not found:
        raise UserError(
            f"no records in {', '.join(map(str, folders))}; "
            "python -m petlbench -m method=linear,lora dataset=mini makes some in results/runs"
        )
    return list(found.values())


def write(table: Table, records: list[Record], name: str, out: Path) -> list[Path]:
    """All files of a table; the paths that were written."""
    wide = table.values[[column.key for column in table.columns]]
    contents = {
        f"{name}.csv": wide.to_csv(index_label="method", float_format="%.6g"),
        f"{name}_tidy.csv": tidy(records).to_csv(index=False, float_format="%.6g"),
        f"{name}.tex": latex.render(table, name),
        f"{name}.md": text.markdown(table),
    }
    for file, content in contents.items():
        write_atomically(out / file, content.encode())
    return [out / file for file in contents]


def main(arguments: list[str] | None = None) -> int:
    """Print and write one table; a mistake of the user is one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m petlbench.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--records", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--name", required=True, help="of the files, and of the LaTeX label")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write to"
    )
    parser.add_argument("--suite", help="by default the suite with most records")
    parser.add_argument("--protocol", default="final")
    chosen = parser.parse_args(arguments)
    try:
        records = read(chosen.records)
        suite = chosen.suite or Counter(r["suite"] for r in records).most_common(1)[0][0]
        table = build(records, suite=suite, protocol=chosen.protocol)
        paths = write(table, records, chosen.name, chosen.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 110)
    for shown in text.terminal(table):
        console.print(shown)
    for note in table.notes:
        console.print(note, style="dim", highlight=False, markup=False)
    print("\n".join(f"wrote {path}" for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
