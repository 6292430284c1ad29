"""Writes a sweep that W&B's server hands out to its agents, and registers it.

Arguments are those of `python -m petlbench -m`. Suites are expanded: a job of an agent is one
method on one task. The file is FOLDER/wandb/sweep-NAME.yaml, where FOLDER is results.root.
"""

import argparse
import contextlib
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.types import Override

from petlbench.config import compositions, options
from petlbench.errors import UserError
from petlbench.progress import say
from petlbench.run.record import Store
from petlbench.run.wandb_client import connected, explained
from petlbench.sweep.expansion import Expansion, expand
from petlbench.system import write_atomically

TEMPLATE = ("sweep", "wandb")  # group and option of conf/
Sweep = dict[str, Any]


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    command.add_argument(
        "overrides", nargs="+", metavar="KEY=VALUE", help="such as experiment=table2 seed=0,1"
    )
    command.add_argument(
        "--print", action="store_true", help="only print the sweep, for `wandb sweep FILE`"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write and register a sweep. Raises UserError if it has no runs or W&B refuses it."""
    expansion = expand(arguments.overrides)
    sweep = configuration(expansion)
    text = yaml.safe_dump(sweep, sort_keys=False, width=99)
    if arguments.print:
        print(text, end="")
        return
    store = Store(expansion.runs[0].results.root)
    store.check_writable()
    file = store.root / "wandb" / f"sweep-{sweep['name'].replace('/', '-')}.yaml"
    write_atomically(file, text.encode())
    say(f"{len(expansion.runs)} runs: {file}")
    print(f"wandb agent {_register(sweep, expansion.runs[0].wandb.entity)}")


def configuration(expansion: Expansion) -> Sweep:
    """The sweep in W&B's format."""
    first = expansion.runs[0]
    template = options.content(*TEMPLATE)
    parameters = {key: _parameter(key, axis) for key, axis in expansion.axes.items()}
    sweep = {
        "name": first.wandb.group or _experiment(expansion) or first.dataset.suite,
        "project": first.wandb.project,
        **template,
        "parameters": template["parameters"] | parameters,
    }
    tests = first.protocol.tests
    if isinstance(tests, list) and tests:  # else all test sets, or none
        sweep["metric"] = template["metric"] | {"name": f"{tests[0]}/top1"}
    return sweep


def known_keys() -> Iterable[str]:
    """The keys that an override may set."""
    return compositions.keys_with([])


def _experiment(expansion: Expansion) -> str | None:
    axis = expansion.axes.get("experiment")
    return axis[0].get_value_element_as_str() if axis else None


def _parameter(key: str, axis: Sequence[Override]) -> dict[str, Any]:
    if axis[0].is_delete():
        raise UserError(f"'{axis[0].input_line}': W&B passes only KEY=VALUE; leave it out")
    values = [_value(override) for override in axis]
    return {"values": values} if len(values) > 1 else {"value": values[0]}


def _value(override: Override) -> bool | int | float | str:
    """A number as such, which W&B can order, and all else as Hydra reads it."""
    value = override.value()
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    return override.get_value_element_as_str()


def _register(sweep: Sweep, entity: str | None) -> str:
    """ENTITY/PROJECT/ID of the sweep on the server."""
    with explained():
        _, own = connected()
        import wandb

        # stdout is for the command of the agents
        with contextlib.redirect_stdout(sys.stderr):
            identifier = wandb.sweep(sweep, entity=entity or own, project=sweep["project"])
    return f"{entity or own}/{sweep['project']}/{identifier}"
