"""petlbench as a Hydra sweeper. The only file that touches Hydra's private parts."""

import itertools
import logging
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from petlbench import compose
from petlbench.errors import UserError
from petlbench.sweep import plan

log = logging.getLogger("petlbench")
MODULE = "hydra_plugins.petlbench_sweeper"


class PetlSweeper(Sweeper):
    """Expands suites, composes each run, and hands all of them to `petlbench.sweep.conduct`.

    params: what an experiment's yaml sweeps; the command line wins. dry_run: print the plan only.
    """

    def __init__(self, *, params: DictConfig | None, dry_run: bool) -> None:
        self.params = params or {}
        self.dry_run = dry_run

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's way to hand over its loader and the composed configuration."""
        self.loader: ConfigLoader = hydra_context.config_loader
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Plan and run; leaves by SystemExit with the sweep's exit code."""
        from petlbench.sweep.conduct import sweep  # torch is imported when a sweep begins, not before

        raise SystemExit(sweep(self.configs(arguments), dry_run=self.dry_run))

    def configs(self, arguments: Sequence[str]) -> Iterator[compose.Config]:
        """The plain configuration of every combination; composed anew for all but the seed."""
        axes = self._axes(arguments)
        seeds = axes.pop("seed", None)
        for combination in itertools.product(*axes.values()):
            composed = self.loader.load_sweep_config(self.config, list(combination))
            choices = dict(composed.hydra.runtime.choices)
            with open_dict(composed):
                del composed["hydra"]
            for seed in seeds or [f"seed={composed.seed}"]:
                OmegaConf.update(composed, "seed", self._parse([seed])[0].value())
                yield compose.finish(composed, choices)

    def _axes(self, arguments: Sequence[str]) -> dict[str, list[str]]:
        """For each key of the command or the experiment, its overrides, suites expanded."""
        given = self._parse(arguments)
        named = {override.get_key_element() for override in given}
        params = [f"{key}={value}" for key, value in self.params.items()]
        ours = [o for o in self._parse(params) if o.get_key_element() not in named]
        return {o.get_key_element(): list(self._values(o)) for o in [*ours, *given]}

    def _values(self, override: Override) -> Iterable[str]:
        if not override.is_sweep_override():
            values = [override.get_value_element_as_str()]
        elif override.is_choice_sweep() or override.is_range_sweep():
            values = list(cast(Iterable[str], override.sweep_string_iterator()))
        else:
            text = override.input_line
            raise UserError(f"'{text}' cannot be swept; list the values, a,b,c, or name a suite")
        key = override.get_key_element()
        if override.is_delete() or not self.loader.repository.group_exists(key):  # type: ignore[attr-defined]
            return [key] if override.is_delete() else [f"{key}={value}" for value in values]
        return [f"{key}={name}" for name in plan.expand(values, lambda v: self._suite(key, v))]

    def _suite(self, group: str, option: str) -> list[str] | None:
        """What an option's yaml lists as `suite`, or None if it is no suite."""
        found = self.loader.repository.load_config(f"{group}/{option}")  # type: ignore[attr-defined]
        listed = found.config.get("suite") if found is not None else None
        return list(listed) if OmegaConf.is_list(listed) else None

    def _parse(self, overrides: Sequence[str]) -> list[Override]:
        parser = OverridesParser.create(config_loader=self.loader)
        return parser.parse_overrides(overrides=list(overrides))


def register() -> None:
    """Make the sweeper known to Hydra as hydra/sweeper=petlbench, without installing a plugin.

    Hydra instantiates only what seems to live in the package hydra_plugins, which need not exist.
    """
    Plugins.instance()
    package = sys.modules.setdefault("hydra_plugins", types.ModuleType("hydra_plugins"))
    if not hasattr(package, "__path__"):
        package.__path__ = []
    PetlSweeper.__module__ = MODULE
    alias = types.ModuleType(MODULE)
    alias.PetlSweeper = PetlSweeper  # type: ignore[attr-defined]
    sys.modules[MODULE] = alias
    package.petlbench_sweeper = alias  # type: ignore[attr-defined]
    Plugins.instance().register(PetlSweeper)
    node = {"_target_": f"{MODULE}.PetlSweeper", "params": None, "dry_run": False}
    ConfigStore.instance().store(group="hydra/sweeper", name="petlbench", node=node)
