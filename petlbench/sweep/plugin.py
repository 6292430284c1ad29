"""petlbench as a Hydra sweeper, by Hydra's private interface.

overrides.py reads the command, combine.py composes its runs, searches.py those of protocol=select.
"""

import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from petlbench.checks import positive
from petlbench.config import target
from petlbench.errors import UserError
from petlbench.garbage import uncollected
from petlbench.sweep import conduct, select
from petlbench.sweep.asked import asked
from petlbench.sweep.launchers.basic import Basic
from petlbench.sweep.launchers.foreign import Foreign, run_composed
from petlbench.sweep.launchers.launcher import Launcher
from petlbench.sweep.overrides import Overrides

MODULE = "hydra_plugins.petlbench_sweeper"
HYDRAS_BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class PetlSweeper(Sweeper):
    """Expands suites, composes all runs, and passes them to `petlbench.sweep.conduct`.

    params: the sweep of an experiment's yaml; the command line overrides it. dry_run: only print
    the plan. tflops: speed of the machine, for the hours in the plan.
    """

    config: DictConfig

    def __init__(
        self, *, params: Mapping[str, Any] | None, dry_run: bool, tflops: float | None
    ) -> None:
        self.params = dict(params or {})
        self.dry_run = dry_run
        self.tflops = tflops

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hook of Hydra, which passes its loader and the composed configuration."""
        self.context = hydra_context
        self.config = config
        self.overrides = Overrides(cast(ConfigLoaderImpl, hydra_context.config_loader))

    def sweep(self, arguments: list[str]) -> Any:
        """Plan and run; raises SystemExit with the exit code of the sweep."""
        # not in __init__, whose errors Hydra wraps
        if not isinstance(self.dry_run, bool):
            raise UserError(f"hydra.sweeper.dry_run is {self.dry_run}; it must be true or false")
        if self.tflops is not None:
            positive("hydra.sweeper.tflops", self.tflops)
        options: dict[str, Any] = {"dry_run": self.dry_run, "tflops": self.tflops}
        own = asked(self.overrides, self.config, arguments, self.params)
        launcher = self._launcher()
        if own.is_search:
            code = select.sweep(*own.cells(), launcher, **options).code
        else:
            with uncollected():
                combinations = own.combinations()
            code = conduct.sweep(combinations, launcher, **options)
        # `hydra.main` discards what a sweeper returns
        raise SystemExit(code)

    def _launcher(self) -> Launcher:
        node = cast(
            dict[str, Any], OmegaConf.to_container(self.config.hydra.launcher, resolve=True)
        )
        path = node.pop("_target_")
        if path == HYDRAS_BASIC:
            return Basic()
        found = target.find(path, "hydra/launcher")
        if isinstance(found, type) and issubclass(found, HydraLauncher):
            return Foreign(
                Plugins.instance().instantiate_launcher(
                    hydra_context=self.context, task_function=run_composed, config=self.config
                )
            )
        try:
            inspect.signature(found).bind(**node)
        except TypeError as error:
            raise UserError(f"hydra.launcher of {path}: {error}") from error
        made: Launcher = found(**node)
        return made


def register() -> None:
    """Register the sweeper of conf/hydra/sweeper with Hydra, without an installed plugin.

    Hydra only creates sweepers whose module is in the package hydra_plugins, which may not exist.
    """
    plugins = Plugins.instance()
    package = sys.modules.setdefault("hydra_plugins", types.ModuleType("hydra_plugins"))
    if not hasattr(package, "__path__"):
        package.__path__ = []  # what makes a module a package
    # Hydra looks a plugin up by its module and name
    PetlSweeper.__module__ = MODULE
    alias = types.ModuleType(MODULE)
    alias.PetlSweeper = PetlSweeper  # type: ignore[attr-defined]
    sys.modules[MODULE] = alias
    package.petlbench_sweeper = alias  # type: ignore[attr-defined]
    plugins.register(PetlSweeper)
