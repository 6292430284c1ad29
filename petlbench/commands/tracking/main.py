"""Weights & Biases before and after the runs: sends records, registers sweeps, makes dashboards.

docs/sweeps.md describes the subcommands.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from petlbench.arguments import Parser, command
from petlbench.commands.tracking import dashboard, push, sweep
from petlbench.config import mistakes

EXAMPLES = """examples:
  petlbench tracking push --records results/runs
  petlbench tracking sweep experiment=table2
  petlbench tracking dashboard --project petlbench
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; an error is one line on stderr. Exit status: 2 for a mistake, else 0."""
    # to stderr: stdout holds what a command prints for other commands
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = parser().parse_args(arguments)
    with mistakes.as_user_errors(sweep.known_keys):
        options.run(options)
    return 0


def parser() -> argparse.ArgumentParser:
    """The subcommands and their options."""
    whole = Parser(
        prog="petlbench tracking",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    for module, text in (
        (push, "send records that W&B does not have, and the means of their groups"),
        (sweep, "write and register a sweep for agents of W&B"),
        (dashboard, "make the workspace of a project"),
    ):
        name = module.__name__.rpartition(".")[2]
        subcommand = commands.add_parser(name, help=text, description=module.__doc__)
        module.add_options(subcommand)
        subcommand.set_defaults(run=module.run)
    return whole


if __name__ == "__main__":
    sys.exit(main())
