"""Values that a user may set: each check raises one line that names value and range."""

import math
from collections.abc import Iterable
from typing import TypeGuard

from petlbench.errors import UserError


def whole(name: str, value: object, *, low: int, high: int | None = None, of: str = "") -> int:
    """`value` as a whole number from low to high; `of` says what sets the upper end."""
    if _is_whole(value) and low <= value and (high is None or value <= high):
        return value
    upper = f" to {high}{', ' + of if of else ''}" if high is not None else " on"
    raise UserError(f"{name} is {value}; it must be a whole number from {low}{upper}")


def block_number(name: str, value: object, depth: int) -> int:
    """`value` as the number of a block, counted from 1."""
    if _is_whole(value) and 1 <= value <= depth:
        return value
    raise UserError(f"{name} {value} is outside the network's {depth} blocks, counted from 1")


def subset(name: str, value: Iterable[str], known: Iterable[str]) -> list[str]:
    """At least one of the known words, in their own order: what is drawn at random follows it."""
    chosen, choices = list(value), list(known)
    if isinstance(value, str) or not chosen or not set(chosen) <= set(choices):
        raise UserError(f"{name} is {value}; it must be a list of {' or '.join(choices)}")
    return [choice for choice in choices if choice in chosen]


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def positive(name: str, value: object) -> float:
    """`value` as a finite number above 0."""
    if isinstance(value, int | float) and math.isfinite(value) and value > 0:
        return float(value)
    raise UserError(f"{name} is {value}; it must be a number above 0")


def fraction(name: str, value: object) -> float:
    """`value` as a probability that leaves something: at least 0 and below 1."""
    if isinstance(value, int | float) and 0 <= value < 1:
        return float(value)
    raise UserError(f"{name} is {value}; it must be a number of at least 0 and below 1")
