"""A sweep as it is asked for, by the command line or from Python."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from petlbench.config.selection import SelectConfig
from petlbench.sweep.axes import Axes, refuse_selection
from petlbench.sweep.combine import Combiner
from petlbench.sweep.overrides import Overrides
from petlbench.sweep.plan import Combination
from petlbench.sweep.searches import Searches
from petlbench.sweep.select import Cell


@dataclass(frozen=True)
class Asked:
    """The axes of a sweep, and what composes its runs."""

    axes: Axes
    combiner: Combiner
    searches: Searches

    @property
    def is_search(self) -> bool:
        """Whether it is one of protocol=select, which chooses its final runs itself."""
        return self.searches.asked_for(self.axes)

    def cells(self) -> tuple[Iterator[Cell], SelectConfig]:
        """The searches of protocol=select, and their settings."""
        return self.searches.cells(self.axes, self.combiner.combinations)

    def combinations(self) -> list[Combination]:
        """The runs of another protocol. Raises UserError for keys of protocol=select."""
        refuse_selection(self.axes)
        return list(self.combiner.combinations(self.axes, self.axes.varied))


def asked(
    overrides: Overrides, config: DictConfig, arguments: Sequence[str], params: Mapping[str, Any]
) -> Asked:
    """The sweep of arguments and an experiment's params; config: as Hydra composed it."""
    axes = overrides.axes(arguments, params)
    return Asked(axes, Combiner(overrides, config), Searches(overrides, config))
