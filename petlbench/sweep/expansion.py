"""A sweep as it is written and as it expands, for those who hand out its runs themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from petlbench.config import command_line, compositions, hydra_keys
from petlbench.config.schema import Config
from petlbench.errors import UserError
from petlbench.sweep.asked import Asked, asked
from petlbench.sweep.overrides import Overrides, defer
from petlbench.sweep.plan import Combination


@dataclass(frozen=True)
class Expansion:
    """axes: the overrides of each key, whose product are the runs; suites are expanded."""

    axes: dict[str, list[Override]]
    combinations: list[Combination]

    @property
    def runs(self) -> list[Config]:
        """The configurations of the runs."""
        return [config for config, _, _ in self.combinations]


def written(arguments: Sequence[str]) -> Asked:
    """The sweep of `python -m petlbench -m ARGUMENTS`, before its runs are composed.

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
    task = cast(list[str], OmegaConf.to_container(config.hydra.overrides.task, resolve=False))
    return asked(Overrides(loader), config, task, config.hydra.sweeper.params or {})


def expand(arguments: Sequence[str]) -> Expansion:
    """The sweep with all its runs; errors as of `written`, also for protocol=select."""
    sweep = written(arguments)
    if sweep.is_search:
        raise UserError(
            "protocol=select chooses its final runs itself; name another protocol, or use "
            "petlbench sweep"
        )
    parse = sweep.searches.overrides.parse
    axes = {**sweep.axes.groups, **sweep.axes.values}
    return Expansion({key: parse(texts) for key, texts in axes.items()}, sweep.combinations())
