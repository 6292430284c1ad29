"""The command `petlbench`: one name for all commands of `python -m petlbench...`.

Imports nothing that is slow: the help and the lists are there at once.
"""

import runpy
import shlex
import sys
from collections.abc import Sequence
from typing import NamedTuple

from petlbench import interrupts
from petlbench.arguments import MISTYPED
from petlbench.errors import UserError, unknown
from petlbench.progress import say
from petlbench.system import package_version


class Command(NamedTuple):
    """A module that `python -m` starts, arguments before those of the user, and its line."""

    module: str
    line: str
    preset: tuple[str, ...] = ()


COMMANDS = {
    "try": Command("petlbench.commands.own.main", "compare methods on a folder of your images"),
    "run": Command("petlbench", "one run: method=lora dataset=mini/digits"),
    "sweep": Command("petlbench", "many runs: method=dtl,lora dataset=mini seed=0,1,2", ("-m",)),
    "report": Command("petlbench.report", "tables, charts and a page from records"),
    "predict": Command("petlbench.predict", "classify images with a fine-tuned network"),
    "export": Command("petlbench.commands.export", "a fine-tuned network for timm, ONNX or PEFT"),
    "status": Command("petlbench.status", "what a sweep has done, is doing and has to do"),
    "probe": Command("petlbench.probe", "memory, operations and speed of methods, untrained"),
    "multitask": Command("petlbench.multitask", "many deltas on one backbone, with -m"),
    "data": Command("petlbench.data", "list, verify, prepare, fetch or cache data"),
    "methods": Command("petlbench.commands.listing", "the methods, one line each", ("methods",)),
    "tasks": Command("petlbench.commands.listing", "the tasks and suites", ("tasks",)),
    "backbones": Command("petlbench.commands.listing", "the backbones", ("backbones",)),
    "show": Command("petlbench.commands.show", "explain a key: show train.memory"),
    "support": Command("petlbench.support", "which method works on which backbone"),
    "push-hub": Command("petlbench.push_hub", "share a run with a model card"),
    "records": Command("petlbench.records", "check records that others contribute"),
    "tracking": Command("petlbench.tracking", "Weights & Biases before and after the runs"),
    "testing": Command("petlbench.commands.testing", "test the properties of a method"),
}


def usage() -> str:
    """The commands, one line each."""
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(
        [
            "usage: petlbench COMMAND ...",
            "",
            *(f"  {name:<{width}}{command.line}" for name, command in COMMANDS.items()),
            "",
            "petlbench COMMAND --help describes a command; petlbench --version",
        ]
    )


def command(name: str, rest: Sequence[str]) -> Command:
    """A command by its name. Raises UserError for an unknown one."""
    if name in COMMANDS:
        return COMMANDS[name]
    if "=" in name or name in ("-m", "--multirun"):
        # what `python -m petlbench` takes
        several = {name, *rest} & {"-m", "--multirun"}
        own = [text for text in (name, *rest) if text not in several]
        raise UserError(
            f"'{name}' is no command; did you mean 'petlbench {'sweep' if several else 'run'} "
            f"{' '.join(own)}'?"
        )
    raise unknown("command", name, COMMANDS)


def check_is_no_command(arguments: Sequence[str]) -> None:
    """Refuse `python -m petlbench run ...`, a mixture of the two ways to start a command."""
    words = [text for text in arguments if text not in ("-m", "--multirun")]
    if not words or words[0] not in COMMANDS:
        return
    name, *rest = words
    chosen = COMMANDS[name]
    short = shlex.join(["petlbench", *words])
    long = shlex.join(["python", "-m", chosen.module, *chosen.preset, *rest])
    raise UserError(
        f"'{name}' is a command of petlbench and no KEY=VALUE; use '{short}' or '{long}'"
    )


def main() -> None:
    """Start the command that the first argument names; leaves by SystemExit."""
    interrupts.hear()
    name, *rest = sys.argv[1:] or ["--help"]
    if name == "--version":
        print(f"petlbench {package_version('petlbench')}")
        return
    if name in ("-h", "--help"):
        print(usage())
        return
    try:
        chosen = command(name, rest)
    except UserError as error:
        say(f"error: {error}")
        raise SystemExit(MISTYPED) from None
    sys.argv[1:] = [*chosen.preset, *rest]
    # as `python -m` does, so that both are the same program
    runpy.run_module(chosen.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
