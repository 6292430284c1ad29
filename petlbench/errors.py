"""Mistakes of the user in one line: the thing, the given value, the choices, the next step."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something the user can mend; commands print it without a traceback and exit with 1 or 2."""


class Unsupported(UserError):
    """A method and a backbone that cannot work together; the record says `unsupported` and why."""


def unknown(kind: str, value: object, choices: Iterable[str]) -> UserError:
    """Unknown method 'lorra'; did you mean 'lora'? Known: adapter, bitfit, ..."""
    known, name = sorted(choices), str(value)
    key = name.replace("+", "_plus").replace("*", "_star").replace("-", "_").lower()
    near = [choice for choice in known if f"{choice}_".startswith(f"{key}_")][:1]
    near = near or get_close_matches(key, known, n=1, cutoff=0.6)
    near = near or [choice for choice in known if choice.startswith(key)][:1]
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UserError(f"unknown {kind} '{name}'; {hint}Known: {', '.join(known) or 'none'}")
