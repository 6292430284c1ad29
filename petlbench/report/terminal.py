"""A table for the terminal; best bold, second underlined."""

import itertools
from collections.abc import Sequence
from textwrap import wrap

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from petlbench.report.costs import GROUP as COST
from petlbench.report.table import Column, Table

STYLES = {1: "bold", 2: "underline", None: ""}
PADDING = 2  # blanks beside a cell
NARROW = 11  # characters of a head's line


def render(table: Table, width: int) -> list[RichTable]:
    """Scores, then costs; each in as many tables as `width` characters ask for."""
    made = []
    for _, part in itertools.groupby(table.columns, key=lambda column: column.group == COST):
        made += [_table(table, columns) for columns in _fitting(table, list(part), width)]
    return made


def _fitting(table: Table, columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Groups of columns side by side as far as there is room; a group is split if it must be."""
    labels = [
        *(_marked(table, table.named(row), row) for row in table.rows),
        *table.sections.values(),
    ]
    room = width - max(map(len, labels)) - PADDING
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
    return sum(
        PADDING + max(map(len, [*head.split("\n"), *(_text(table, row, c) for row in table.rows)]))
        for head, c in zip(_heads(table, columns), columns, strict=True)
    )


def _text(table: Table, row: str, column: Column) -> str:
    return table.text(row, column) + table.flags.get((row, column.key), "")


def _heads(table: Table, columns: Sequence[Column]) -> list[str]:
    """Heads of equally many lines: the group over its first column, then the title."""
    titles = [wrap(_marked(table, c.title, c.key), NARROW) for c in columns]
    depth = max(map(len, titles))
    groups = [c.group.capitalize() for c in columns]
    shown = [
        group * (group != before) for before, group in zip(["", *groups], groups, strict=False)
    ]
    return [
        "\n".join([group, *[""] * (depth - len(title)), *title])
        for group, title in zip(shown, titles, strict=True)
    ]


def _table(table: Table, columns: Sequence[Column]) -> RichTable:
    shown = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1), pad_edge=False, header_style=""
    )
    shown.add_column("", no_wrap=True)
    for head in _heads(table, columns):
        shown.add_column(Text(head), justify="right", no_wrap=True)
    for section, rows in table.parts():
        if section:
            shown.add_row(Text(section, "italic"))
        for row in rows:
            cells = [
                Text.assemble(
                    (table.text(row, c), STYLES[table.rank(row, c)]),
                    table.flags.get((row, c.key), ""),
                )
                for c in columns
            ]
            shown.add_row(Text(_marked(table, table.named(row), row)), *cells)
    return shown


def _marked(table: Table, title: str, of: str) -> str:
    letters = table.letters(of)
    return f"{title} ({letters})" if letters else title
