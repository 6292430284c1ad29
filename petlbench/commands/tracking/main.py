"""Weights & Biases before and after the runs: sends records, registers sweeps, makes dashboards.

docs/sweeps.md describes the subcommands.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from petlbench.arguments import MISTYPED, Parser
from petlbench.commands.tracking import dashboard, push, sweep
from petlbench.config import mistakes
from petlbench.errors import UserError
from petlbench.interrupts import one_line
from petlbench.progress import say

EXAMPLES = """examples:
  python -m petlbench.tracking push --records results/runs
  python -m petlbench.tracking sweep experiment=table2
  python -m petlbench.tracking dashboard --project petlbench
"""


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; an error is one line on stderr. Exit status: 2 for a mistake, else 0."""
    # to stderr: stdout holds what a command prints for other commands
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        say(f"error: {error}")
        return MISTYPED
    except (HydraException, OmegaConfBaseException) as error:
        say(f"error: {mistakes.explain(error, sweep.known_keys)}")
        return MISTYPED
    return 0


def parser() -> argparse.ArgumentParser:
    """The subcommands and their options."""
    whole = Parser(
        prog="python -m petlbench.tracking",
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
        command = commands.add_parser(name, help=text, description=module.__doc__)
        module.add_options(command)
        command.set_defaults(run=module.run)
    return whole


if __name__ == "__main__":
    sys.exit(main())
