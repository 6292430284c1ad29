"""Tables of a README from committed results: python -m tools.readme README.md.

The text between `<!-- results FILE [COLUMN ...] -->` and `<!-- end -->` is replaced by the
Markdown of a report (FILE.md), or by some columns of its table (FILE.csv). Paths are relative to
the README's folder; a column is named as in the table, with _ for a space.
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

# lazy: a block ends at the first end mark after it
BLOCK = re.compile(r"(<!-- results (\S+)(.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, folder: Path) -> str:
    """The text with every block replaced.

    Raises UserError for a missing file or an unknown column.
    """
    return BLOCK.sub(lambda match: _block(match, folder), text)


def _block(match: re.Match[str], folder: Path) -> str:
    begin, name, columns, end = match.groups()
    file = folder / name
    if not file.is_file():
        raise UserError(f"'{name}' is not in {folder.resolve()}; write the report first")
    names = [column.replace("_", " ") for column in columns.split()]
    lines = _columns(pd.read_csv(file), names) if names else _table_and_notes(file.read_text())
    return begin + "\n" + "\n".join(lines) + "\n\n" + end


def _table_and_notes(report: str) -> list[str]:
    """A report in Markdown without its caption."""
    return report[report.index("|") :].rstrip("\n").split("\n")


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
        + [f"{row[key]:.{digit}f}" for key, digit in zip(keys, digits, strict=True)]
        for _, row in table.iterrows()
    ]
    head = [[first, *titles], ["---", *("--:" for _ in keys)]]
    return [f"| {' | '.join(cells)} |" for cells in [*head, *rows]]


def main(arguments: list[str] | None = None) -> int:
    """Update the file. Exit status 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m tools.readme", description=__doc__)
    parser.add_argument("file", type=Path)
    file: Path = parser.parse_args(arguments).file
    try:
        text = file.read_text()
        write_atomically(file, filled(text, file.parent).encode())
    except (OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTYPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
