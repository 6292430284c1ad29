"""Tables of a README from committed results: python -m tools.readme README.md.

What stands between `<!-- results FILE [COLUMN ...] -->` and `<!-- end -->` is made again: the
Markdown of a report (FILE.md) as it is, or some columns of its table (FILE.csv). Files are named
from the README's folder, columns as the table has them, with _ for a blank.
"""

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from petlbench.errors import UserError, unknown
from petlbench.report.read.costs import COSTS

BLOCK = re.compile(r"(<!-- results (\S+)(.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, folder: Path) -> str:
    """The text with every block made again."""
    return BLOCK.sub(lambda found: _block(found, folder), text)


def _block(found: re.Match[str], folder: Path) -> str:
    begin, name, columns, end = found.groups()
    file = folder / name
    if not file.is_file():
        raise UserError(f"'{name}' is not in {folder.resolve()}; make the report first")
    chosen = [column.replace("_", " ") for column in columns.split()]
    lines = _columns(pd.read_csv(file), chosen) if chosen else _whole(file.read_text())
    return begin + "\n" + "\n".join(lines) + "\n\n" + end


def _whole(report: str) -> list[str]:
    """Table and notes of a report, without its caption."""
    return report[report.index("|") :].rstrip("\n").split("\n")


def _columns(table: pd.DataFrame, chosen: list[str]) -> list[str]:
    names = {name.replace("_", " "): str(name) for name in table.columns[1:]}
    for column in chosen:
        if column not in names:
            raise unknown("column", column, names)
    keys = [names[column] for column in chosen]
    titles = [COSTS[key].title if key in COSTS else key.replace("_", " ") for key in keys]
    digits = [COSTS[key].digits if key in COSTS else 1 for key in keys]
    first = str(table.columns[0])
    rows = [
        [str(row[first]).replace("*", r"\*")]
        + [f"{row[key]:.{digit}f}" for key, digit in zip(keys, digits, strict=True)]
        for _, row in table.iterrows()
    ]
    head = [[first, *titles], ["---", *("--:" for _ in keys)]]
    return [f"| {' | '.join(cells)} |" for cells in [*head, *rows]]


def main(arguments: list[str] | None = None) -> int:
    """Write the file again. Exit status 1 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m tools.readme", description=__doc__)
    parser.add_argument("file", type=Path)
    file: Path = parser.parse_args(arguments).file
    try:
        text = file.read_text()
        file.write_text(filled(text, file.parent))
    except (OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
