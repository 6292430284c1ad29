"""A report in the terminal; best bold, second underlined."""

import itertools
import sys
from collections.abc import Sequence
from textwrap import wrap

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from petlbench.errors import printable
from petlbench.report.model.report import Report
from petlbench.report.model.table import COST, Column, Table, headed

STYLES = {1: "bold", 2: "underline", None: ""}
WIDTH = 110  # characters if the output is not a terminal
PADDING = 2  # spaces beside a cell
HEAD = 11  # characters of a line of a head
LABEL, TEXT = 60, 40  # columns of the terminal that a label and a text in a cell take at most


def show(report: Report) -> None:
    """Print the tables and their notes."""
    # None: rich asks the terminal
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if report.answer:
        console.print(f"{printable(report.answer)}\n", style="bold", highlight=False, markup=False)
    for table in report.tables:
        for part in render(table, console.width):
            console.print(part, "")
        for line in table.lines():
            # rich would take [brackets] in a reason for markup
            console.print(printable(line), style="dim", highlight=False, markup=False)
        console.print()
    for command in report.commands:
        console.print(f"{command.title}:", highlight=False, markup=False)
        # a wrapped command could not be copied
        console.print(
            f"    {printable(command.text)}\n", soft_wrap=True, highlight=False, markup=False
        )


def render(table: Table, width: int) -> list[RichTable]:
    """Scores, then costs; each split into tables of at most `width` characters."""
    parts = []
    for _, columns in itertools.groupby(table.columns, key=lambda column: column.group == COST):
        parts += [_table(table, fitting) for fitting in _fitting(table, list(columns), width)]
    return parts


def _fitting(table: Table, columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Groups of columns side by side as far as they fit; a group wider than `width` is split."""
    labels = [
        *(_with_letters(table, table.printed_label(row), row) for row in table.rows),
        *(_short(section, LABEL) for section in table.sections.values()),
    ]
    room = width - max(map(cell_len, labels)) - PADDING
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
    """Columns of the terminal that columns side by side take."""
    texts = (
        [*head.split("\n"), *(_text(table, row, column) for row in table.rows)]
        for head, column in zip(_heads(table, columns), columns, strict=True)
    )
    return sum(PADDING + max(map(cell_len, of_column)) for of_column in texts)


def _text(table: Table, row: str, column: Column) -> str:
    return _cell(table, row, column).plain


def _cell(table: Table, row: str, column: Column) -> Text:
    """The figure in its style, and its flag."""
    figure = _short(table.text(row, column), TEXT), STYLES[table.rank(row, column)]
    return Text.assemble(figure, table.flags.get((row, column.key), ""))


def _heads(table: Table, columns: Sequence[Column]) -> list[str]:
    """Heads with equal numbers of lines: the group over its first column, then the title."""
    titles = [wrap(_with_letters(table, c.title, c.key), HEAD) for c in columns]
    depth = max(map(len, titles))
    groups = [printable(headed(c.group)) for c in columns]
    # rich has no heads over several columns
    first = [
        group * (group != before) for before, group in zip(["", *groups], groups, strict=False)
    ]
    return [
        "\n".join([group, *[""] * (depth - len(title)), *title])
        for group, title in zip(first, titles, strict=True)
    ]


def _table(table: Table, columns: Sequence[Column]) -> RichTable:
    # without edges more columns fit
    grid = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1), pad_edge=False, header_style=""
    )
    grid.add_column("", no_wrap=True)
    for head in _heads(table, columns):
        grid.add_column(Text(head), justify="right", no_wrap=True)
    for section, rows in table.parts():
        if section:
            grid.add_row(Text(_short(section, LABEL), "italic"))
        for row in rows:
            cells = [_cell(table, row, column) for column in columns]
            grid.add_row(Text(_with_letters(table, table.printed_label(row), row)), *cells)
    return grid


def _with_letters(table: Table, title: str, of: str) -> str:
    letters = table.letters(of)
    name = _short(title, LABEL)
    return f"{name} ({letters})" if letters else name


def _short(text: str, most: int) -> str:
    """Text without its middle if it is too wide: rich would cut the figures beside it."""
    plain = printable(text)
    if cell_len(plain) <= most:
        return plain
    half = (most - 1) // 2
    # a blank stands for half of a wide character
    begin, end = (set_cell_size(side, half).rstrip() for side in (plain, plain[::-1]))
    return f"{begin}…{end[::-1]}"
