"""The files of a report."""

import re
from pathlib import Path

from petlbench.cells import DIGITS, cell, cells
from petlbench.errors import UserError
from petlbench.report.draw import plot
from petlbench.report.model.report import Report
from petlbench.report.render import html, latex, markdown
from petlbench.report.render.latex import part_name
from petlbench.system import check_writable, write_atomically

MAX_NAME = 200  # characters; file systems allow 255 with the suffixes
FIGURE = f"%.{DIGITS}g"


def check_target(name: str, folder: Path) -> None:
    """Raise UserError for an unusable file name or an unwritable folder; creates nothing."""
    if not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII) or len(name) > MAX_NAME:
        raise UserError(
            f"--name '{name}' is not a file name; use at most {MAX_NAME} "
            "letters, digits, '_', '-', '.', '+'"
        )
    check_writable("--out", folder)


def contents(report: Report, name: str, command: str) -> dict[str, bytes]:
    """File name -> content: tables, tidy frame, LaTeX, Markdown, page and charts."""
    tables = {
        f"{part_name(name, table.name)}.csv": cells(table.unrounded()).to_csv(
            index_label=cell(table.head), float_format=FIGURE
        )
        for table in report.tables
    }
    drawn = {
        part_name(name, chart.name): plot.render(chart)
        for chart in (*report.charts, *report.pictures)
    }
    embedded = [drawn[part_name(name, picture.name)]["png"] for picture in report.pictures]
    texts = tables | {
        f"{name}_tidy.csv": cells(report.tidy).to_csv(index=False, float_format=FIGURE),
        f"{name}.tex": latex.render(report, name, command),
        f"{name}.md": markdown.render(report, name),
        f"{name}.html": html.render(report, command, embedded),
    }
    charts = {
        f"{part}.{suffix}": content
        for part, files in drawn.items()
        for suffix, content in files.items()
    }
    # a file name need not be UTF-8, and Python keeps its other bytes as characters that are none
    encoded = {file: text.encode(errors="backslashreplace") for file, text in texts.items()}
    return encoded | charts


def write(report: Report, name: str, folder: Path, command: str) -> list[Path]:
    """Write all files of a report, each whole or not at all; their paths."""
    files = contents(report, name, command)  # all of them first: an error leaves no file behind
    for file, content in files.items():
        write_atomically(folder / file, content)
    return [folder / file for file in files]
