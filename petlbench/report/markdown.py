"""A table as Markdown; best bold, second underlined."""

import itertools
import re
from collections.abc import Sequence

from petlbench.report.table import Column, Table

FORMS = {1: "**%s**", 2: "<u>%s</u>", None: "%s"}


def escaped(text: str) -> str:
    """Text in which no character means anything to Markdown or its tables."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)


def render(table: Table) -> str:
    """A table under a row of group heads, its notes as a list, and the spread if there is any."""
    lines = [*_head(table, table.columns)]
    for family, rows in table.sections():
        if family:
            lines.append(_line([f"*{escaped(family)} methods*", *[""] * len(table.columns)]))
        for row in rows:
            cells = (
                FORMS[table.rank(row, c)] % escaped(table.text(row, c)) for c in table.columns
            )
            lines.append(_line([_marked(table, row, row), *cells]))
    lines += ["", *(f"- {escaped(note)}" for note in table.lines())]
    if table.has_spread:
        lines += ["", "Sample standard deviation over runs, in percentage points:", ""]
        lines += _head(table, table.tasks)
        for row in table.rows:
            deviations = (table.deviation(row, task) for task in table.tasks)
            lines.append(_line([_marked(table, row, row), *deviations]))
    return "\n".join(lines) + "\n"


def _head(table: Table, columns: Sequence[Column]) -> list[str]:
    """Markdown has no spanning heads: a group's name stands over its first column."""
    groups = [""]
    for group, members in itertools.groupby(columns, key=lambda column: column.group):
        groups += [escaped(group.capitalize()), *[""] * (len(list(members)) - 1)]
    return [
        _line(groups),
        _line(["---", *("--:" for _ in columns)]),
        _line(["**method**", *(f"**{_marked(table, c.title, c.key)}**" for c in columns)]),
    ]


def _marked(table: Table, title: str, of: str) -> str:
    letters = table.letters(of)
    return escaped(title) + (f"<sup>{letters}</sup>" if letters else "")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
