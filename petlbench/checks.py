"""Checks of values that a user may set: each raises one line that names value and range."""

import re
import sys
from collections.abc import Collection, Iterable
from typing import TypeGuard, TypeVar

from petlbench.errors import UserError, unknown

T = TypeVar("T")
LONGEST_NAME = 200  # characters; file systems allow 255 in a name
LARGEST_SIZE = 1_000_000  # the product of a few of them still fits the 64 bits of torch's sizes


def whole(name: str, value: object, *, low: int, high: int | None = None, of: str = "") -> int:
    """`value` as an integer from low to high; `of` says what sets the upper end."""
    if is_whole(value) and low <= value and (high is None or value <= high):
        return value
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise UserError(f"{name} is {value}; it must be a whole number {bounds}{of and f', {of}'}")


def size(name: str, value: object) -> int:
    """`value` as a dimension of a tensor, such as a rank: from 1 to LARGEST_SIZE."""
    # Twice, since the upper end is of no interest to whoever gives a number below 1.
    return whole(name, whole(name, value, low=1), low=1, high=LARGEST_SIZE)


def block_number(name: str, value: object, depth: int) -> int:
    """`value` as the number of a block, counted from 1."""
    if is_whole(value) and 1 <= value <= depth:
        return value
    raise UserError(f"{name} {value} is outside the network's {depth} blocks, counted from 1")


def subset(name: str, value: Iterable[str], known: Iterable[str]) -> list[str]:
    """One or more of the known words, in the order of `known`: random draws follow that order."""
    choices = list(known)
    # A text is iterable too, but its letters are no words.
    chosen = value if isinstance(value, Iterable) and not isinstance(value, str) else []
    if not chosen or not set(chosen) <= set(choices):
        raise UserError(f"{name} is {value}; it must be a list of {' or '.join(choices)}")
    return [choice for choice in choices if choice in set(chosen)]


def positive(name: str, value: object) -> float:
    """`value` as a finite number above 0."""
    if is_number(value) and value > 0:
        return float(value)
    raise UserError(f"{name} is {value}; it must be a number above 0")


def at_least(name: str, value: object, low: float) -> float:
    """`value` as a finite number of at least `low`."""
    if is_number(value) and value >= low:
        return float(value)
    raise UserError(f"{name} is {value}; it must be a number of at least {low:g}")


def fraction(name: str, value: object) -> float:
    """`value` as a number of at least 0 and below 1, such as a dropout rate."""
    if is_number(value) and 0 <= value < 1:
        return float(value)
    raise UserError(f"{name} is {value}; it must be a number of at least 0 and below 1")


def probability(name: str, value: object) -> float:
    """`value` as a number from 0 to 1."""
    if is_number(value) and 0 <= value <= 1:
        return float(value)
    raise UserError(f"{name} is {value}; it must be a number from 0 to 1")


def choice(name: str, value: T, known: Collection[T]) -> T:
    """`value` if it is one of the known ones; True is not 1."""
    if not any(type(value) is type(one) and value == one for one in known):
        raise unknown(name, _shown(value), map(_shown, known))
    return value


def text(name: str, value: object) -> str:
    """`value` as a text that is not empty and has no line break or other control character."""
    # Titles and names appear in messages of one line and in cells of tables.
    if isinstance(value, str) and value.strip() and value.isprintable():
        return value
    raise UserError(f"{name} is {value!r}; it must be a text of one line")


def inner_path(name: str, value: object) -> str:
    """`value` as a name such as mini/digits: a place below a folder of results or data."""
    parts = re.split(r"[/\\]", inside := text(name, value))
    # a colon: the drive of a path on Windows
    if not {"", ".", ".."} & set(parts) and ":" not in parts[0] and len(inside) <= LONGEST_NAME:
        return inside
    raise UserError(
        f"{name} is {value!r}; it must be a name such as mini/digits of at most {LONGEST_NAME} "
        "characters, without .. and without / at its ends"
    )


def flag(name: str, value: object) -> bool:
    """`value` as true or false."""
    if isinstance(value, bool):
        return value
    raise UserError(f"{name} is {value}; it must be true or false")


def batch_statistics(of: str, images: int) -> None:
    """Raise UserError if a batch norm has one image to train on, which has no statistics."""
    if images == 1:
        raise UserError(
            f"a batch norm of {of} needs two images in a training step, and one has 1; set a "
            "train.batch_size above 1, and train.drop_last=true if the last batch has one image"
        )


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is an integer; True and False are none."""
    # In Python bool is a subclass of int, so true would count as 1.
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number; True and False are none."""
    # yaml can write .nan and .inf, and JSON integers that no float can hold
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _shown(value: object) -> str:
    """A value as yaml writes it."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
