"""Tables, charts and a page from records.

A report is named after its view: an experiment (conf/experiment/*.yaml) with a `report` node, or
a kind as it is (table, leaderboard, ...). It writes NAME.csv (each further table NAME_TABLE.csv),
NAME_tidy.csv (a row per record and test set), NAME.tex, NAME.md, NAME.html, and each chart as
NAME_CHART.png and .pdf, and prints the tables. Averages run over draws and seeds, never over
settings.
"""

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from petlbench.errors import UserError
from petlbench.report import html, latex, markdown, plot, terminal
from petlbench.report.document import Report
from petlbench.report.latex import named
from petlbench.report.read import read
from petlbench.report.view import View, find, module, names
from petlbench.system import write_atomically

WIDTH = 110  # characters where the output is no terminal
EXAMPLE = "example: python -m petlbench.report leaderboard --records results/runs --out results"


def check(name: str, out: Path) -> None:
    """Refuse a name or a folder that cannot take the files, before the work."""
    if not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
        raise UserError(
            f"--name '{name}' is no name for files; use letters, digits, '_', '-', '.'"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out, prefix=".tmp-"):
            pass
    except OSError as error:
        raise UserError(
            f"--out '{out}' cannot be written ({error.strerror}); give a folder with permission"
        ) from error


def write(report: Report, name: str, out: Path, made_by: str) -> list[Path]:
    """All files of a report; the paths that were written."""
    contents = {
        f"{named(name, table.name)}.csv": table.wide().to_csv(index_label=table.head).encode()
        for table in report.tables
    }
    contents |= {
        f"{name}_tidy.csv": report.tidy.to_csv(index=False).encode(),
        f"{name}.tex": latex.render(report, name, made_by).encode(),
        f"{name}.md": markdown.render(report).encode(),
        f"{name}.html": html.render(report, made_by).encode(),
    }
    for chart in report.charts:
        for suffix, content in plot.render(chart).items():
            contents[f"{named(name, chart.name)}.{suffix}"] = content
    for file, content in contents.items():
        write_atomically(out / file, content)
    return [out / file for file in contents]


def show(report: Report) -> None:
    """Print the tables and what stands below them."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for table in report.tables:
        for shown in terminal.render(table, console.width):
            console.print(shown, "")
        for line in table.lines():
            console.print(line, style="dim", highlight=False, markup=False)
        console.print()


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m petlbench.report",
        description=__doc__,
        epilog="\n".join(
            ["names:", *(f"  {name:12} {title}" for name, title in names().items()), "", EXAMPLE]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("report", metavar="NAME", help="which report; the names are listed below")
    made.add_argument(
        "--records",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of records: the results.root of runs and sweeps",
    )
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    made.add_argument("--name", help="of the files, and of the LaTeX labels (default: NAME)")
    made.add_argument("--suite", help="for example mini; default: the view's, or the commonest")
    made.add_argument("--protocol", help="records of others are left out (default: the view's)")
    made.add_argument("--backbone", help="which, where there are records of several")
    made.add_argument(
        "--vary",
        nargs="+",
        metavar="KEY",
        help="values of the configuration, e.g. method.rank, that make rows of their own",
    )
    return made


def chosen_view(given: argparse.Namespace) -> View:
    """The view of the name, with what the command line says otherwise."""
    view = find(given.report)
    told = {key: getattr(given, key) for key in ("suite", "protocol", "backbone")}
    changes: dict[str, Any] = {key: value for key, value in told.items() if value is not None}
    if changes.get("suite", view.suite) != view.suite:
        changes["published"] = ()  # they are of the view's own suite
    if given.vary:
        changes["vary"] = {key: key.rpartition(".")[2] for key in given.vary}
    return replace(view, **changes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write one report; a mistake of the user is one line on stderr and status 1."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = parser().parse_args(given)
        view = chosen_view(options)
        name = options.name or options.report
        records = read(options.records)
        report = module(view.kind).build(records, view, **view.options)
        check(name, options.out)
        made_by = shlex.join(["python", "-m", "petlbench.report", *given])
        paths = write(report, name, options.out, made_by)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(report)
    print("\n".join(f"wrote {path}" for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
