"""The axes of a sweep, and how protocol=select cuts them into searches. No Hydra."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from petlbench.config import selection
from petlbench.config.selection import SelectConfig
from petlbench.errors import UserError
from petlbench.sweep.plan import Combination
from petlbench.sweep.select import Cell
from petlbench.sweep.space import Point, Space, shown

NAMED = ("method", "dataset", "seed")  # every line about a run names these keys


@dataclass(frozen=True)
class Axes:
    """The overrides of each key, as texts: options of groups, and values."""

    groups: Mapping[str, Sequence[str]]
    values: Mapping[str, Sequence[str]]

    @property
    def varied(self) -> set[str]:
        """Keys with several values that the name of a run does not have already."""
        axes = {**self.groups, **self.values}
        return {key for key, axis in axes.items() if len(axis) > 1} - set(NAMED)

    def options(self, group: str) -> list[str]:
        """The options of a group that the sweep names."""
        return [text.partition("=")[2] for text in self.groups.get(group, ())]

    def with_option(self, group: str, name: str) -> "Axes":
        """The axes with an option of a group, if they have none."""
        return Axes(
            {**self.groups, group: self.groups.get(group, [f"{group}={name}"])}, self.values
        )

    def of_node(self, node: str) -> dict[str, Sequence[str]]:
        """The overrides of a node of values and of the keys below it."""
        keys = {key: key.lstrip("+~") for key in self.values}
        return {
            key: self.values[key]
            for key, plain in keys.items()
            if plain == node or plain.startswith(f"{node}.")
        }


Combinations = Callable[[Axes, Collection[str]], Iterable[Combination]]


def refuse_selection(axes: Axes) -> None:
    """Refuse keys of protocol=select under another protocol."""
    for key in axes.of_node(selection.NAME):
        raise UserError(f"{key} belongs to protocol=select; add protocol=select, or leave it out")


def cells(
    axes: Axes,
    settings: SelectConfig,
    space_of: Callable[[str], Space],
    combinations: Combinations,
) -> Iterator[Cell]:
    """A method on a task at a time, with one value of everything else but the seed.

    space_of: the space of a method. combinations: of axes, named by the keys that are varied.
    """
    for key in axes.of_node("protocol"):
        raise UserError(f"{key} belongs to the protocols trial and final; leave it out")
    methods = axes.options("method")
    spaces = {method: space_of(method) for method in methods}
    points = {name: space.points(settings.trials, settings.seed) for name, space in spaces.items()}
    seeds = axes.of_node("seed")
    left_out = {*seeds, *axes.of_node(selection.NAME)}
    rest = {key: axis for key, axis in axes.values.items() if key not in left_out}
    for method, space in spaces.items():
        _refuse_set(rest, space, method)
    for choice in itertools.product(*axes.groups.values()):
        groups = {key: [text] for key, text in zip(axes.groups, choice, strict=True)}
        [method] = Axes(groups, {}).options("method")
        for values in itertools.product(*rest.values()):
            single = {key: [text] for key, text in zip(rest, values, strict=True)}
            own = Axes(groups, single)
            others = (text for key, [text] in (groups | single).items() if key in axes.varied)
            compose = partial(_composed, own, seeds, axes.varied, combinations)
            yield Cell(spaces[method], points[method], tuple(others), compose)


def _composed(
    axes: Axes,
    seeds: Mapping[str, Sequence[str]],
    varied: Collection[str],
    combinations: Combinations,
    protocol: str,
    point: Point,
    trial_seeds: Sequence[int] | None,
) -> Iterable[Combination]:
    """The combinations of a cell under a protocol with the values of a point."""
    groups = {**axes.groups, "protocol": [f"protocol={protocol}"]}
    if trial_seeds is not None:
        seeds = {"seed": [f"seed={seed}" for seed in trial_seeds]}
    values = dict(zip(point, ([text] for text in shown(point)), strict=True))
    return combinations(Axes(groups, {**axes.values, **values, **seeds}), {*varied, *point})


def _refuse_set(values: Iterable[str], space: Space, method: str) -> None:
    """Refuse a value of the command that the trials of a method try."""
    for key in (value.lstrip("+~") for value in values):
        # train={lr: 1} sets train.lr too
        if not any(axis == key or axis.startswith(f"{key}.") for axis in space.axes):
            continue
        raise UserError(
            f"{key} is set by the command and tried by protocol=select for method={method} "
            f"({space.where}); leave {key} out, or choose protocol=trial to try points by hand"
        )
