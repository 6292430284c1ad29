"""A sweep as it is written and as it expands, for those who hand out its runs themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from petlbench.config import command_line, compositions, hydra_keys
from petlbench.config.schema import Config
from petlbench.errors import UserError
from petlbench.sweep.axes import refuse_selection
from petlbench.sweep.combine import Combiner
from petlbench.sweep.overrides import Overrides, defer
from petlbench.sweep.plan import Combination
from petlbench.sweep.searches import Searches


@dataclass(frozen=True)
class Expansion:
    """axes: the overrides of each key, whose product are the runs; suites are expanded."""

    axes: dict[str, list[Override]]
    combinations: list[Combination]

    @property
    def runs(self) -> list[Config]:
        """The configurations of the runs."""
        return [config for config, _, _ in self.combinations]


def expand(arguments: Sequence[str]) -> Expansion:
    """The sweep of `python -m petlbench -m ARGUMENTS`.

    Raises UserError and HydraException for what that command refuses, and for keys of Hydra.
    """
    overrides = command_line.without_plus(arguments)
    command_line.check_groups(overrides)
    command_line.check_backbone(overrides)
    hydra_keys.check(overrides)
    deferred = defer(["-m", *command_line.quoted(overrides)])[1:]
    loader, config = compositions.multirun(deferred)
    if own := config.hydra.overrides.hydra:
        raise UserError(f"'{own[0]}' is for a sweep of Hydra; leave it out")
    read = Overrides(loader)
    task = cast(list[str], OmegaConf.to_container(config.hydra.overrides.task, resolve=False))
    axes = read.axes(task, config.hydra.sweeper.params or {})
    if Searches(read, config).asked_for(axes):
        raise UserError("protocol=select chooses its final runs itself; name another protocol")
    refuse_selection(axes)
    parsed = {
        key: read.parse(texts) for key, texts in (*axes.groups.items(), *axes.values.items())
    }
    return Expansion(parsed, list(Combiner(read, config).combinations(axes, axes.varied)))
