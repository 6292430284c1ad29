"""Parsing of command lines."""

import argparse
from typing import NoReturn

MISTYPED = 2  # exit status after a mistake of the user


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistyped command in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(MISTYPED, f"error: {message}; {self.prog} --help shows the options\n")
