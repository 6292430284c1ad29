"""A table for the terminal; best bold, second underlined."""

import itertools
from collections.abc import Sequence

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from petlbench.report.table import COST, Column, Table

STYLES = {1: "bold", 2: "underline", None: ""}
PADDING = 2  # blanks beside a cell


def render(table: Table, width: int) -> list[RichTable]:
    """Scores, then costs; each in as many tables as `width` characters ask for."""
    made = []
    for _, part in itertools.groupby(table.columns, key=lambda column: column.group == COST):
        made += [_table(table, columns) for columns in _fitting(table, list(part), width)]
    return made


def _fitting(table: Table, columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Groups of columns side by side as far as there is room; a group is split if it must be."""
    room = width - max(len(_marked(table, row, row)) for row in table.rows) - PADDING
    groups = [list(m) for _, m in itertools.groupby(columns, key=lambda column: column.group)]
    lines: list[list[Column]] = [[]]
    for group in groups:
        pieces = [group] if _width(table, group) <= room else [[column] for column in group]
        for piece in pieces:
            if lines[-1] and _width(table, [*lines[-1], *piece]) > room:
                lines.append([])
            lines[-1] += piece
    return lines


def _width(table: Table, columns: Sequence[Column]) -> int:
    return sum(_column_width(table, column) + PADDING for column in columns)


def _column_width(table: Table, column: Column) -> int:
    title = _title(table, column)
    cells = [*title.split("\n"), *(table.text(row, column) for row in table.rows)]
    return max(map(len, cells))


def _title(table: Table, column: Column) -> str:
    """A head of several short lines: its group first, if it is a task, then its words."""
    words = _marked(table, column.title, column.key).replace(" w/o head (M)", " w/o head,M")
    return words.replace(" ", "\n", 1) if column.group != COST else words.replace(" ", "\n")


def _table(table: Table, columns: Sequence[Column]) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="", pad_edge=False)
    shown.add_column("", no_wrap=True)
    for place, column in enumerate(columns):
        first = place == 0 or columns[place - 1].group != column.group
        group = f"{column.group.capitalize()}\n" if first else "\n"
        shown.add_column(
            Text(group + _title(table, column)), justify="right", vertical="bottom", no_wrap=True
        )
    for row in table.rows:
        cells = [Text(table.text(row, c), STYLES[table.rank(row, c)]) for c in columns]
        shown.add_row(Text(_marked(table, row, row)), *cells)
    return shown


def _marked(table: Table, title: str, of: str) -> str:
    letters = table.letters(of)
    return f"{title} ({letters})" if letters else title
