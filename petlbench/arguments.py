"""Parsing of command lines, and what all commands have in common."""

import argparse
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NoReturn, ParamSpec, cast

from petlbench.errors import UserError, printable, unknown
from petlbench.interrupts import one_line
from petlbench.progress import say

FAILED, MISTYPED = 1, 2  # exit status after a refused file, and after a mistake of the user
UNRECOGNIZED = "unrecognized arguments: "  # how argparse's message begins

P = ParamSpec("P")


def command(main: Callable[P, int]) -> Callable[P, int]:
    """A command whose mistakes and interruption are one line on stderr and an exit status."""

    @wraps(main)
    def guarded(*arguments: P.args, **options: P.kwargs) -> int:
        try:
            return main(*arguments, **options)
        except UserError as error:
            say(f"error: {error}")
            return MISTYPED
        except OSError as error:
            if error.filename is None:
                raise
            say(f"error: '{printable(str(error.filename))}': {error.strerror or error}")
            return FAILED

    return one_line(guarded)


class _Store(argparse.Action):
    """Takes an option once; one with several values may be given again and gets them all."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = cast(Parser, parser).given
        if option_string is not None and self.dest in given:
            if self.nargs not in ("+", "*"):
                raise argparse.ArgumentError(self, "given twice")
            values = [*getattr(namespace, self.dest), *values]
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistyped command in one line, without the usage."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.given = set[str]()  # destinations of the options so far
        # argparse keeps the last one of two in silence
        for name in (None, "store"):
            self.register("action", name, _Store)

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """Hook of argparse: the beginning of each command."""
        self.given.clear()
        return super().parse_known_args(*arguments, **options)

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        if message.startswith(UNRECOGNIZED):
            message = self._unrecognized(message.removeprefix(UNRECOGNIZED).split()[0])
        self.exit(MISTYPED, f"error: {message}; {self.prog} --help shows the options\n")

    def _unrecognized(self, text: str) -> str:
        if text.startswith("-"):
            option = text.partition("=")[0]
            if option in (known := {*_options(self)}):  # of another subcommand
                return (
                    f"'{option}' is no option here; it is one of {', '.join(_with(self, option))}"
                )
            return str(unknown("option", option, known))
        return f"'{text}' is one argument too many"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse names the choices, but not the nearest one
        if action.choices is not None and value not in action.choices:
            kind = str(action.metavar or action.dest).lower()
            raise argparse.ArgumentError(None, str(unknown(kind, value, action.choices)))


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser and of its subcommands, in their long form."""
    for action in parser._actions:
        yield from action.option_strings[-1:]
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _options(below)


def _with(parser: argparse.ArgumentParser, option: str) -> Iterator[str]:
    """The commands that have an option, of a parser and its subcommands."""
    for action in parser._actions:
        if option in action.option_strings:
            yield parser.prog
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _with(below, option)
