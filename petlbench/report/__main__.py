"""Tables, charts and a page from records.

A report is named after an experiment (conf/experiment/*.yaml) with a `report` node, or after a
kind (table, leaderboard, ...). It writes NAME.csv (each further table NAME_TABLE.csv),
NAME_tidy.csv (a row per record and test set), NAME.tex, NAME.md, NAME.html, and each chart as
NAME_CHART.png and .pdf, and prints the tables. Averages are over draws and seeds, never over
settings.
"""

import argparse
import gc
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from petlbench.arguments import Parser, command
from petlbench.errors import UserError
from petlbench.report import registry
from petlbench.report.model.spec import ReportSpec
from petlbench.report.read.records import read
from petlbench.system import user_path

PROGRAM = ["python", "-m", "petlbench.report"]
OF_KIND = ("images", "budget_gib", "ppt")  # options that only some kinds have
EXAMPLE = "example: petlbench report leaderboard --records results/runs --out results"


class NamesParser(Parser):
    """Lists the reports in its help."""

    def format_help(self) -> str:
        """The help; the names are read only here because they take a second."""
        names = [f"  {name:12} {title}" for name, title in registry.names().items()]
        self.epilog = "\n".join(["names:", *names, "", EXAMPLE])
        return super().format_help()


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = NamesParser(
        prog="petlbench report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("report", metavar="NAME", help="the report; names are listed below")
    options.add_argument(
        "--records",
        nargs="+",
        default=[],  # the audit of published averages needs none
        metavar="DIR",
        help="folders of records: the results.root of runs and sweeps",
    )
    options.add_argument(
        "--community",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of contributed records, in a table of their own (leaderboard)",
    )
    options.add_argument("--out", required=True, metavar="DIR", help="output folder")
    options.add_argument("--name", help="name of the files and LaTeX labels (default: NAME)")
    options.add_argument("--suite", help="e.g. mini; default: the report's, or the most frequent")
    options.add_argument("--protocol", help="default: the report's; other records are excluded")
    options.add_argument("--backbone", help="required if the records have several backbones")
    options.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="measured rows of these methods only, e.g. dtl lora; other rows stay",
    )
    options.add_argument(
        "--vary",
        nargs="+",
        metavar="KEY",
        help="keys of the configuration, e.g. method.rank, whose values get separate rows",
    )
    options.add_argument(
        "--intervals", action="store_true", help="add a table with a 95 %% interval of every cell"
    )
    options.add_argument(
        "--ppt",
        action="store_true",
        default=None,
        help="table, leaderboard: add V-PETL Bench's trade-off of accuracy and parameters",
    )
    options.add_argument(
        "--images", metavar="DIR", help="folder: what dataset.root was, for pictures of mistakes"
    )
    options.add_argument(
        "--budget-gib",
        type=float,
        metavar="GIB",
        help="folder: GPU memory, for the batch that fits it",
    )
    return options


def specification(options: argparse.Namespace) -> ReportSpec:
    """The specification of the named report, changed by the options.

    Raises UserError for an unknown report.
    """
    spec = registry.find(options.report)
    keys = ("suite", "protocol", "backbone")
    changes: dict[str, Any] = {
        key: value for key in keys if (value := getattr(options, key)) is not None
    }
    if changes.get("suite", spec.suite) != spec.suite:
        changes["published"] = ()  # published rows belong to the report's own suite
    if options.community:
        if spec.kind != "leaderboard":
            raise UserError(
                f"--community is for the leaderboard; report '{options.report}' has no rows for it"
            )
        changes["options"] = {**spec.options, "community": options.community}
    if options.methods:
        # with commas, as a sweep names them, too
        names = [name.strip() for text in options.methods for name in text.split(",")]
        changes["methods"] = tuple(filter(None, names))
        if not changes["methods"]:
            raise UserError("--methods names no method; give names such as lora, or leave it out")
    if options.vary:
        # its last part is printed, e.g. rank for method.rank
        changes["vary"] = {key: key.rpartition(".")[2] for key in options.vary}
    if options.intervals:
        changes["intervals"] = True
    given = {key: value for key in OF_KIND if (value := getattr(options, key)) is not None}
    return registry.changed(options.report, replace(spec, **changes), given)


def check_texts(options: argparse.Namespace) -> None:
    """Raise UserError for a value that is empty, as an unset variable of a shell, or not UTF-8."""
    for option, value in vars(options).items():
        label = "NAME" if option == "report" else f"--{option}"
        texts = value if isinstance(value, list) else [value]
        for text in (text for text in texts if isinstance(text, str)):
            if text == "":
                raise UserError(f"{label} is empty; give it a value or leave it out")
            if not _is_utf8(text):
                raise UserError(f"{label} {text!r} is not UTF-8; the files of a report name it")


def _is_utf8(text: str) -> bool:
    # bytes of an argument that are not UTF-8 arrive as surrogates (PEP 383)
    return text == text.encode(errors="replace").decode()


def run(arguments: Sequence[str]) -> None:
    """Write and print one report. Raises UserError before anything is written."""
    options = parser().parse_args(arguments)
    check_texts(options)
    # after the help: pandas and matplotlib take a second
    from petlbench.report.render import terminal
    from petlbench.report.render.files import check_target, write

    spec = specification(options)
    name, folder = options.name or options.report, user_path("--out", options.out)
    # before the records are read, which takes longer
    check_target(name, folder)
    report = registry.build(read([Path(path) for path in options.records]), spec)
    paths = write(report, name, folder, shlex.join([*PROGRAM, *arguments]))
    # after the files: they are complete even if the output is a pipe that closes early
    terminal.show(report)
    print("\n".join(f"wrote {path}" for path in paths))


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a UserError is one line on stderr and status 2."""
    run(sys.argv[1:] if arguments is None else arguments)
    return 0


if __name__ == "__main__":
    # a search for cycles among millions of values of records takes seconds and finds none
    gc.disable()
    sys.exit(main())
