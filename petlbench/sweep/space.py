"""Search spaces: which values the trials of a method have.

A space is a node as the configuration has it: below each key is a list of values, or a range
{low, high, log} of numbers. Two whole ends make a range of whole numbers. `log: true` draws the
logarithm evenly.

    tune:
      train: { lr: [1.0e-3, 1.0e-2], weight_decay: { low: 1.0e-5, high: 1.0e-2, log: true } }
"""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petlbench.checks import flag, is_number, is_whole
from petlbench.errors import UserError

NODES = ("method", "train", "input", "backbone")  # whose values a trial may change
DIGITS = 3  # of a number that is drawn from a range: enough, and its runs can be named
TRIES = 1000  # draws for each point that is wanted: small ranges have few different ones
Value = str | float | bool | None
Point = Mapping[str, Value]  # dotted key -> value


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, whole ones if both are whole."""

    low: float
    high: float
    log: bool

    @property
    def size(self) -> float:
        """Number of different values."""
        return self.high - self.low + 1 if self.is_whole else math.inf

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return is_whole(self.low) and is_whole(self.high)

    def at(self, share: float) -> float:
        """The value at a share of at least 0 and below 1."""
        high = self.high + 1 if self.is_whole else self.high
        if self.log:
            value = math.exp(math.log(self.low) + share * math.log(high / self.low))
        else:
            value = self.low + share * (high - self.low)
        if self.is_whole:
            return min(math.floor(value), int(self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Space:
    """The values of each key, and where they were declared, for messages."""

    axes: Mapping[str, Sequence[Value] | Range]
    where: str

    @property
    def size(self) -> float:
        """Number of different points."""
        return math.prod(_size(axis) for axis in self.axes.values())

    def points(self, number: int, seed: int) -> list[Point]:
        """As many points as wanted: all of a grid, row by row, or different ones by chance.

        More drawn points of one seed begin with the same ones. Raises UserError if there are too
        few.
        """
        if self.size < number:
            sizes = ", ".join(f"{key} {_size(axis):g}" for key, axis in self.axes.items())
            raise UserError(
                f"select.trials is {number} and {self.where} has {self.size:g} points ({sizes}); "
                f"every method needs as many trials: set select.trials={self.size:g}, or add "
                "values there"
            )
        if self.size == number:
            return [dict(zip(self.axes, values, strict=True)) for values in self._grid()]
        return self._drawn(number, random.Random(seed))

    def edges(self, point: Point) -> list[str]:
        """The keys of numbers whose value in a point lies at an end of their list."""
        lists = {key: axis for key, axis in self.axes.items() if not isinstance(axis, Range)}
        return [
            key
            for key, axis in lists.items()
            if len(axis) > 1
            and (numbers := [value for value in axis if is_number(value)])
            and point[key] in (min(numbers), max(numbers))
        ]

    def _grid(self) -> Iterator[tuple[Value, ...]]:
        return itertools.product(
            *(
                range(int(axis.low), int(axis.high) + 1) if isinstance(axis, Range) else axis
                for axis in self.axes.values()
            )
        )

    def _drawn(self, number: int, source: random.Random) -> list[Point]:
        points: dict[str, Point] = {}
        for _ in range(TRIES * number):
            # of `random`, only random() gives the same numbers in every version of Python
            point = {key: _value(axis, source.random()) for key, axis in self.axes.items()}
            points.setdefault(json.dumps(point), point)
            if len(points) == number:
                return list(points.values())
        raise UserError(
            f"{self.where} gives {len(points)} different points and select.trials is {number}; "
            "set fewer trials, or widen the ranges there"
        )


def read(node: Any, where: str) -> Space:
    """The space of a node. where: of it, for messages. Raises UserError for one that is wrong."""
    if not isinstance(node, Mapping) or not node:
        raise UserError(f"{where} is {node}; it must map keys such as train.lr to their values")
    axes = {key: _axis(f"{where}: {key}", value) for key, value in _leaves(node, "")}
    for key in axes:
        if key.partition(".")[0] not in NODES or "." not in key:
            raise UserError(
                f"{where} has {key}; trials may change values below {', '.join(NODES)}"
            )
    return Space(axes, where)


def shown(point: Point) -> list[str]:
    """A point as overrides, for example ["train.lr=0.001"]."""
    return [f"{key}={_text(value)}" for key, value in point.items()]


def _leaves(node: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value and not {"low", "high"} & value.keys():
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _axis(name: str, value: Any) -> Sequence[Value] | Range:
    if isinstance(value, Mapping):
        return _range(name, value)
    simple = isinstance(value, list) and all(_is_simple(one) for one in value)
    if not simple or not value:
        raise UserError(f"{name} is {value}; it must be a list of values, or {{low, high, log}}")
    # 1 and true are equal in Python and different values
    if len({(isinstance(one, bool), one) for one in value}) < len(value):
        raise UserError(f"{name} is {value}; each value may be there once")
    return tuple(value)


def _is_simple(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or is_number(value)


def _range(name: str, value: Mapping[str, Any]) -> Range:
    low, high = value.get("low"), value.get("high")
    is_range = is_number(low) and is_number(high) and low < high
    if not is_range or not value.keys() <= {"low", "high", "log"}:
        raise UserError(f"{name} is {dict(value)}; a range is {{low, high, log}} with low < high")
    assert is_number(low)
    assert is_number(high)
    log = flag(f"{name}.log", value.get("log", False))
    if log and low <= 0:
        raise UserError(f"{name}.low is {low}; a logarithmic range needs an end above 0")
    return Range(low, high, log)


def _size(axis: Sequence[Value] | Range) -> float:
    return axis.size if isinstance(axis, Range) else len(axis)


def _value(axis: Sequence[Value] | Range, share: float) -> Value:
    return axis.at(share) if isinstance(axis, Range) else axis[int(share * len(axis))]


def _text(value: Value) -> str:
    """A value as Hydra's grammar reads it."""
    return json.dumps(value) if isinstance(value, str | bool | None) else repr(value)
