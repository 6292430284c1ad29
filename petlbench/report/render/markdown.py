"""A report as Markdown; best bold, second underlined."""

import itertools
import re
from collections.abc import Sequence

from petlbench.errors import printable
from petlbench.report.model.report import Report
from petlbench.report.model.table import Column, Table, headed
from petlbench.report.render.latex import part_name

# Markdown cannot underline; <u> is HTML that GitHub renders
FORMS = {1: "**%s**", 2: "<u>%s</u>", None: "%s"}


def escaped(text: str) -> str:
    """Text in one line, with the special characters of Markdown and its tables escaped."""
    # < and > too: Markdown may contain HTML
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", printable(text))


def render(report: Report, name: str = "report") -> str:
    """The answer; each table under a row of group heads, its notes as a list, and its spread.

    Then the pictures, by the files of a report of this name, and the commands.
    """
    lines = [escaped(report.answer), ""] if report.answer else []
    lines += [line for table in report.tables for line in _table(table)]
    for picture in report.pictures:
        lines += [f"![{escaped(picture.caption)}]({part_name(name, picture.name)}.png)", ""]
    for command in report.commands:
        lines += [f"{escaped(command.title)}:", "", f"    {printable(command.text)}", ""]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    lines = [f"{escaped(table.caption)}", "", *_head(table, table.columns)]
    for section, rows in table.parts():
        if section:
            lines.append(_line([f"*{escaped(section)}*", *[""] * len(table.columns)]))
        for row in rows:
            cells = (_cell(table, row, column) for column in table.columns)
            lines.append(_line([_with_letters(table, table.printed_label(row), row), *cells]))
    lines += ["", *(f"- {escaped(note)}" for note in table.lines())]
    if table.spread_columns:
        lines += ["", escaped(table.spread_meaning), "", *_head(table, table.spread_columns)]
        for row in table.spread_rows:
            deviations = (table.deviation(row, column) for column in table.spread_columns)
            lines.append(_line([_with_letters(table, table.printed_label(row), row), *deviations]))
    return [*lines, ""]


def _cell(table: Table, row: str, column: Column) -> str:
    flag = table.flags.get((row, column.key), "")
    return FORMS[table.rank(row, column)] % escaped(table.text(row, column)) + escaped(flag)


def _head(table: Table, columns: Sequence[Column]) -> list[str]:
    """Group heads, each over its first column as Markdown has no spanning heads, and titles."""
    groups = [""]
    for group, members in itertools.groupby(columns, key=lambda column: column.group):
        groups += [escaped(headed(group)), *[""] * (len(list(members)) - 1)]
    return [
        _line(groups),
        _line(["---", *("--:" for _ in columns)]),
        _line(
            [
                f"**{escaped(table.head)}**",
                *(f"**{_with_letters(table, c.title, c.key)}**" for c in columns),
            ]
        ),
    ]


def _with_letters(table: Table, title: str, of: str) -> str:
    letters = table.letters(of)
    return escaped(title) + (f"<sup>{letters}</sup>" if letters else "")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
