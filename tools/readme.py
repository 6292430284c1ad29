"""Tables of pages from committed results: python -m tools.readme README.md docs/results.md.

The text between `<!-- results FILE [rows=ROW,...] [COLUMN ...] -->` and `<!-- end -->` is replaced
by the Markdown of a report (FILE.md), or by some columns of its table (FILE.csv), of all rows or
of some. Paths are relative to the page's folder; rows and columns are named as in the table, with
_ for a space.
"""

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from petlbench.arguments import MISTYPED
from petlbench.cost.figures import COSTS
from petlbench.errors import UserError, unknown
from petlbench.system import write_atomically

ROWS = "rows="
# lazy: a block ends at the first end mark after it
BLOCK = re.compile(r"(<!-- results (\S+)(.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, folder: Path) -> str:
    """The text with every block replaced.

    Raises UserError for a missing file or an unknown column.
    """
    return BLOCK.sub(lambda match: _block(match, folder), text)


def _block(match: re.Match[str], folder: Path) -> str:
    begin, name, words, end = match.groups()
    file = folder / name
    if not file.is_file():
        raise UserError(f"'{name}' is not in {folder.resolve()}; write the report first")
    columns = [word.replace("_", " ") for word in words.split() if not word.startswith(ROWS)]
    if columns:
        chosen = [word.removeprefix(ROWS) for word in words.split() if word.startswith(ROWS)]
        rows = [row.replace("_", " ") for word in chosen for row in word.split(",")]
        lines = _columns(_some(pd.read_csv(file), rows), columns)
    else:
        lines = _table_and_notes(file.read_text())
    return begin + "\n" + "\n".join(lines) + "\n\n" + end


def _table_and_notes(report: str) -> list[str]:
    """A report in Markdown without its caption."""
    return report[report.index("|") :].rstrip("\n").split("\n")


def _some(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The named rows in the order of the table; all of them without names."""
    first = table.columns[0]
    for name in names:
        if name not in set(table[first]):
            raise unknown("row", name, [str(row) for row in table[first]])
    return table[table[first].isin(names)] if names else table


def _columns(table: pd.DataFrame, names: list[str]) -> list[str]:
    """Lines of a Markdown table with the named columns."""
    # the first column names the rows
    keys_by_name = {name.replace("_", " "): str(name) for name in table.columns[1:]}
    for name in names:
        if name not in keys_by_name:
            raise unknown("column", name, keys_by_name)
    keys = [keys_by_name[name] for name in names]
    titles = [COSTS[key].title if key in COSTS else key.replace("_", " ") for key in keys]
    digits = [COSTS[key].digits if key in COSTS else 1 for key in keys]
    first = str(table.columns[0])
    rows = [
        # DTL+* would start emphasis
        [str(row[first]).replace("*", r"\*")]
        + [_number(row[key], digit) for key, digit in zip(keys, digits, strict=True)]
        for _, row in table.iterrows()
    ]
    head = [[first, *titles], ["---", *("--:" for _ in keys)]]
    return [f"| {' | '.join(cells)} |" for cells in [*head, *rows]]


def _number(value: float, digits: int) -> str:
    """A cell; a dash for what could not be counted, as in reports."""
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


def main(arguments: list[str] | None = None) -> int:
    """Update the files. Exit status 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m tools.readme", description=__doc__)
    parser.add_argument("file", type=Path, nargs="+")
    files: list[Path] = parser.parse_args(arguments).file
    try:
        for file in files:
            write_atomically(file, filled(file.read_text(), file.parent).encode())
    except (OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTYPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
