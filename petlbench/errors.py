"""Errors of the user in one line: the thing, its value, the choices and the next step."""

from collections.abc import Iterable
from difflib import get_close_matches

JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji; they turn nothing


class UserError(ValueError):
    """A mistake that the user can correct; commands print it without a traceback.

    Its message is one line of printable characters, whatever the names and values in it hold.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Unsupported(UserError):
    """A method and a backbone that do not work together; the record says so, with the reason."""


def printable(text: str) -> str:
    """Text in one line; what would move the cursor or turn the writing is shown as its escape."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in JOINERS else " " if sign.isspace() else _escape(sign)
        for sign in text
    )


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape").decode()


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or of its cause's, without its full stop."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, UserError):
        inner = inner.__context__  # OmegaConf wraps what a resolver raises
    error = inner or error
    while not str(error).strip() and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def one_line(error: BaseException) -> str:
    """An error as one line: its type and its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def first_sentence(error: BaseException) -> str:
    """An error's type and the first sentence of its message: torch's go on with advice."""
    return one_line(error).split(". ")[0]


def unknown(kind: str, value: object, choices: Iterable[str]) -> UserError:
    """Unknown method 'lorra'; did you mean 'lora'? Known: adapter, bitfit, ..."""
    known, name = sorted(choices), str(value)
    # A title such as DTL+* finds its option, dtl_plus_star.
    key = name.replace("+", "_plus").replace("*", "_star").replace("-", "_").lower()
    near = [choice for choice in known if key and f"{choice}_".startswith(f"{key}_")][:1]
    near = near or get_close_matches(key, known, n=1, cutoff=0.6)
    near = near or [choice for choice in known if key and choice.startswith(key)][:1]
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UserError(f"unknown {kind} '{name}'; {hint}Known: {', '.join(known) or 'none'}")
