"""petlbench as a Hydra sweeper, by Hydra's private interface."""

import copy
import inspect
import itertools
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from petlbench.checks import positive
from petlbench.config import compose, mistakes, options, selection, target
from petlbench.config.composer import Composer
from petlbench.config.interpolation import NotCovered
from petlbench.config.schema import Config
from petlbench.config.selection import SelectConfig
from petlbench.errors import UserError, unknown
from petlbench.garbage import uncollected
from petlbench.sweep import conduct, plan, select, space
from petlbench.sweep.axes import Axes, cells, refuse_selection
from petlbench.sweep.launchers.basic import Basic
from petlbench.sweep.launchers.foreign import Foreign, run_composed
from petlbench.sweep.launchers.launcher import Launcher
from petlbench.sweep.space import Space

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
        self.loader = cast(ConfigLoaderImpl, hydra_context.config_loader)
        self.config = config
        self._composer = Composer(self.loader)
        self._parsed = cache(lambda text: self.parse([text])[0])
        # the same choice comes again and again, with other values
        self._by_hydra = lru_cache(maxsize=4)(self._composed)
        self._own = self.parse(list(config.hydra.overrides.hydra))

    def sweep(self, arguments: list[str]) -> Any:
        """Plan and run; raises SystemExit with the exit code of the sweep."""
        # not in __init__, whose errors Hydra wraps
        if not isinstance(self.dry_run, bool):
            raise UserError(f"hydra.sweeper.dry_run is {self.dry_run}; it must be true or false")
        if self.tflops is not None:
            positive("hydra.sweeper.tflops", self.tflops)
        asked: dict[str, Any] = {"dry_run": self.dry_run, "tflops": self.tflops}
        axes, launcher = self.axes(arguments), self._launcher()
        if self.selects(axes):
            axes = axes.with_option("method", self.config.hydra.runtime.choices.method)
            settings = self._selection(axes)
            found = cells(axes, settings, partial(self._space, settings), self.combinations)
            code = select.sweep(found, settings, launcher, **asked)
        else:
            refuse_selection(axes)
            with uncollected():
                combinations = list(self.combinations(axes, axes.varied))
            code = conduct.sweep(combinations, launcher, **asked)
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

    def combinations(self, axes: Axes, varied: Collection[str]) -> Iterator[plan.Combination]:
        """All combinations, composed by Hydra itself where `Composer` does not cover them.

        varied: the keys that name a run beside method, task and seed.
        """
        groups, values = axes.groups, axes.values
        for choice in itertools.product(*groups.values()):
            parsed = [*self._own, *map(self._parsed, choice)]
            for settings in itertools.product(*values.values()):
                overrides = (*choice, *settings)
                keys = zip([*groups, *values], overrides, strict=True)
                shown = tuple(text for key, text in keys if key in varied)
                try:
                    found = self._composer.compose([*parsed, *map(self._parsed, settings)])
                    yield compose.typed(*found), shown, overrides
                except NotCovered:
                    yield self._configuration(*self._by_hydra(choice), settings), shown, overrides

    def selects(self, axes: Axes) -> bool:
        """Whether a sweep is one of protocol=select."""
        chosen = axes.options("protocol") or [self.config.hydra.runtime.choices.protocol]
        if selection.NAME in chosen and len(chosen) > 1:
            raise UserError("protocol=select does trials and final runs; name no other protocol")
        return chosen == [selection.NAME]

    def _selection(self, axes: Axes) -> SelectConfig:
        """The node `select` with the values of the command and the experiment."""
        own = axes.of_node(selection.NAME)
        for key, texts in own.items():
            if len(texts) > 1:
                raise UserError(f"{key} names several values; a sweep of protocol=select has one")
        texts, spaces = [axis[0] for axis in axes.groups.values()], {}
        for override in map(self._parsed, (axis[0] for axis in own.values())):
            above, _, key = override.key_or_group.partition(f"{selection.SPACE}.")
            if not above and not override.is_delete():
                spaces[key] = override.value()
            else:
                texts.append(str(override.input_line))
        composed = self.loader.load_sweep_config(self.config, texts)
        node = OmegaConf.to_container(composed.select, resolve=True)
        return selection.settings(node, spaces)

    def _space(self, settings: SelectConfig, method: str) -> Space:
        """The values that the trials of a method have."""
        own = self._content("method", method).get(selection.TUNE)
        where = f"{selection.TUNE} of method={method}" if own is not None else "select.space"
        return space.read(own if own is not None else settings.space, where)

    def _composed(self, choice: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        """What Hydra composes for a choice of options, and the choice of each group."""
        composed = self.loader.load_sweep_config(self.config, list(choice))
        choices = dict(composed.hydra.runtime.choices)
        return compose.without_hydra(composed), choices

    def _configuration(
        self, composed: DictConfig, choices: dict[str, str], settings: Sequence[str]
    ) -> Config:
        """The configuration of a run: a copy of the composed one with the values set by Hydra."""
        changed = copy.deepcopy(composed)
        try:
            self.loader._apply_overrides_to_config(self.parse(settings), changed)
            return compose.finish(changed, choices)
        except (HydraException, OmegaConfBaseException, AssertionError) as error:
            line = mistakes.explain(error, lambda: compose.keys(composed))
            pair = f"method={choices['method']} backbone={choices['backbone']}"
            raise UserError(f"{line} (with {pair} dataset={choices['dataset']})") from error

    def axes(self, arguments: Sequence[str]) -> Axes:
        """The overrides for each key of the command and the experiment."""
        overrides = self.parse(arguments)
        keys = {override.get_key_element() for override in overrides}
        params = [f"{key}={value!s}" for key, value in self.params.items()]
        preset = [o for o in self.parse(params) if o.get_key_element() not in keys]
        groups: dict[str, list[str]] = {}
        values: dict[str, list[str]] = {}
        for override in [*preset, *overrides]:
            key, axis = override.get_key_element(), _values(override)
            if not self._is_choice(override):
                values[key] = [key if override.is_delete() else f"{key}={v}" for v in axis]
            elif override.is_delete():
                groups[key] = [str(override.input_line)]
            else:
                group = override.key_or_group
                groups[key] = [f"{key}={name}" for name in self._options(group, axis)]
        return Axes(groups, values)

    def _is_choice(self, override: Override) -> bool:
        """Whether an override chooses an option of a group, as in Hydra."""
        is_group = self.loader.repository.group_exists(override.key_or_group)
        # Hydra merges a mapping into the node of the group instead of choosing an option
        return is_group and not isinstance(override.value(), dict)

    def _options(self, group: str, names: Iterable[str]) -> list[str]:
        """Options of a group, with suites expanded. Raises UserError for a sweep in a list."""
        names = list(names)
        for name in names if len(names) > 1 else ():
            if self._content(group, name).get("hydra", {}).get("sweeper", {}).get("params"):
                raise UserError(f"{group}={name} is a sweep itself; run it without other options")
        return options.expand(names, lambda name: self._suite(group, name))

    def _suite(self, group: str, name: str) -> list[str] | None:
        """The options in a suite, None for other options: `suite` of a task is a name."""
        return options.members(group, self._content(group, name))

    def _content(self, group: str, name: str) -> dict[str, Any]:
        """The content of an option's yaml. Raises UserError if there is no such option."""
        result = self.loader.repository.load_config(f"{group}/{name}")
        if result is None:
            raise unknown(group, name, self.loader.get_group_options(group))
        return cast(dict[str, Any], OmegaConf.to_container(result.config))

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        # with the loader, which a glob asks for the options of its group
        return OverridesParser.create(config_loader=self.loader).parse_overrides(list(overrides))


def _values(override: Override) -> list[str]:
    """The values of an override as text for other overrides."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not (override.is_choice_sweep() or override.is_range_sweep()):
        raise UserError(f"'{override.input_line}' is not a list of values; write key=a,b,c")
    # each once, also because `_deferred` writes a value twice
    values = list(dict.fromkeys(cast(Iterable[str], override.sweep_string_iterator())))
    if not values and override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        raise UserError(f"'{override.input_line}' matches no option; name a suite instead")
    return values


def defer(arguments: Sequence[str]) -> list[str]:
    """With -m, write key=value as a sweep of one value.

    Hydra sets plain values in the default configuration before it calls a sweeper. It would refuse
    a value there that only some of the swept methods have, such as method.rank.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    return [_deferred(argument) for argument in arguments]


def _deferred(argument: str) -> str:
    key, _, value = argument.partition("=")
    if not value or "." not in key or key.startswith(("hydra", "+hydra", "++hydra", "-", "~")):
        return argument
    try:
        override = OverridesParser.create().parse_overrides([argument])[0]
    except HydraException:
        return argument  # Hydra reports the mistake
    # The value twice, because choice(value) of Hydra does not accept null.
    return argument if override.is_sweep_override() else f"{key}={value},{value}"


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
