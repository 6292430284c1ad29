"""A table as Markdown and for the terminal; best bold, second underlined."""

import itertools

from rich.table import Table as RichTable
from rich.text import Text

from petlbench.report.table import Table

FORMS = {1: "**%s**", 2: "<u>%s</u>", None: "%s"}
STYLES = {1: "bold green", 2: "underline", None: ""}


def markdown(table: Table) -> str:
    """A Markdown table and its notes as a list."""
    heads = ["", *(column.title for column in table.columns)]
    lines = [_line(heads), _line(["---", *("--:" for _ in table.columns)])]
    for row in table.rows:
        cells = (FORMS[table.rank(row, c)] % table.text(row, c) for c in table.columns)
        lines.append(_line([row.replace("*", r"\*"), *cells]))
    return "\n".join([*lines, "", *(f"- {_plain(note)}" for note in table.notes)]) + "\n"


def _plain(note: str) -> str:
    return note.replace("|", "/").replace("*", r"\*")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def terminal(table: Table) -> list[RichTable]:
    """The scores and the costs, as two tables that fit 100 columns for a suite of eight tasks."""
    made = []
    costs = itertools.groupby(table.columns, key=lambda column: column.group == "Cost")
    for _, columns in costs:
        chosen = list(columns)
        shown = RichTable(header_style="")
        shown.add_column("")
        for column in chosen:
            shown.add_column(column.title, justify="right")
        for row in table.rows:
            cells = [Text(table.text(row, c), STYLES[table.rank(row, c)]) for c in chosen]
            shown.add_row(Text(row), *cells)
        made.append(shown)
    return made
