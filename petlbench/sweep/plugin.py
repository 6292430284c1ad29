"""petlbench as a Hydra sweeper. The only file that touches Hydra's private parts."""

import copy
import itertools
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from petlbench.config import compose, mistakes, options
from petlbench.config.schema import Config
from petlbench.errors import UserError, unknown
from petlbench.sweep import plan

MODULE = "hydra_plugins.petlbench_sweeper"
NAMED = ("method", "dataset", "seed")  # every line about a run names these
Axes = dict[str, list[str]]


class PetlSweeper(Sweeper):
    """Expands suites, composes each run, and hands all of them to `petlbench.sweep.conduct`.

    params: what an experiment's yaml sweeps; the command line wins. dry_run: print the plan only.
    """

    config: DictConfig

    def __init__(self, *, params: Mapping[str, Any] | None, dry_run: bool) -> None:
        self.params = dict(params or {})
        self.dry_run = dry_run

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's way to hand over its loader and the composed configuration."""
        self.loader = cast(ConfigLoaderImpl, hydra_context.config_loader)
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Plan and run; leaves by SystemExit with the sweep's exit code."""
        combinations = list(self.combinations(arguments))
        from petlbench.sweep.conduct import sweep  # imports torch, so after cheap mistakes

        raise SystemExit(sweep(combinations, dry_run=self.dry_run))

    def combinations(self, arguments: Sequence[str]) -> Iterator[plan.Combination]:
        """Every combination; Hydra composes once for each choice of options, which is slow."""
        groups, values = self._axes(arguments)
        varied = {key for key, axis in (groups | values).items() if len(axis) > 1}
        for chosen in itertools.product(*groups.values()):
            composed = self.loader.load_sweep_config(self.config, list(chosen))
            choices = dict(composed.hydra.runtime.choices)
            composed = compose.without_hydra(composed)
            for settings in itertools.product(*values.values()):
                shown = tuple(
                    text
                    for key, text in zip([*groups, *values], [*chosen, *settings], strict=True)
                    if key in varied and key not in NAMED
                )
                yield self._finished(composed, choices, settings), shown

    def _finished(
        self, composed: DictConfig, choices: dict[str, str], settings: Sequence[str]
    ) -> Config:
        """The configuration of a run: a copy of the composed one with values set as Hydra does."""
        changed = copy.deepcopy(composed)
        try:
            self.loader._apply_overrides_to_config(self._parse(settings), changed)
            return compose.finish(changed, choices)
        except (HydraException, OmegaConfBaseException, AssertionError) as error:
            line = mistakes.explain(error, lambda: compose.keys(composed))
            pair = f"method={choices['method']} backbone={choices['backbone']}"
            raise UserError(f"{line} (with {pair} dataset={choices['dataset']})") from error

    def _axes(self, arguments: Sequence[str]) -> tuple[Axes, Axes]:
        """The overrides for each key of the command and the experiment: groups, then values."""
        given = self._parse(arguments)
        named = {override.get_key_element() for override in given}
        params = [f"{key}={value!s}" for key, value in self.params.items()]
        ours = [o for o in self._parse(params) if o.get_key_element() not in named]
        groups: Axes = {}
        values: Axes = {}
        for override in [*ours, *given]:
            key, axis = override.get_key_element(), _values(override)
            if not self._chooses(override):
                values[key] = [key if override.is_delete() else f"{key}={v}" for v in axis]
            elif override.is_delete():
                groups[key] = [str(override.input_line)]
            else:
                group = override.key_or_group
                groups[key] = [f"{key}={name}" for name in self._options(group, axis)]
        return groups, values

    def _chooses(self, override: Override) -> bool:
        """Whether an override chooses an option of a group, as Hydra tells it."""
        is_group = self.loader.repository.group_exists(override.key_or_group)
        return is_group and not isinstance(override.value(), dict)

    def _options(self, group: str, names: Iterable[str]) -> list[str]:
        """Options with suites expanded."""
        names = list(names)
        for name in names if len(names) > 1 else ():
            if self._content(group, name).get("hydra", {}).get("sweeper", {}).get("params"):
                raise UserError(f"{group}={name} is a sweep of its own; run it without others")
        return options.expand(names, lambda name: self._listed(group, name))

    def _listed(self, group: str, name: str) -> list[str] | None:
        """What a suite lists; a task's yaml may name its suite instead."""
        suite = self._content(group, name).get("suite")
        return suite if isinstance(suite, list) else None

    def _content(self, group: str, name: str) -> dict[str, Any]:
        """What an option's yaml says."""
        found = self.loader.repository.load_config(f"{group}/{name}")
        if found is None:
            raise unknown(group, name, self.loader.get_group_options(group))
        return cast(dict[str, Any], OmegaConf.to_container(found.config))

    def _parse(self, overrides: Sequence[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self.loader).parse_overrides(list(overrides))


def _values(override: Override) -> list[str]:
    """The values that an override lists, as text for further overrides."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not (override.is_choice_sweep() or override.is_range_sweep()):
        raise UserError(f"'{override.input_line}' is no list of values; write key=a,b,c")
    found = list(dict.fromkeys(cast(Iterable[str], override.sweep_string_iterator())))
    if not found and override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        raise UserError(f"'{override.input_line}' matches no option; name a suite instead")
    return found


def defer(arguments: Sequence[str]) -> list[str]:
    """With -m, write key=value as a sweep of one value.

    Hydra sets plain values in the default configuration before it hands over to a sweeper; a value
    that only some of the swept methods have (method.rank) would be refused there.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    return [_deferred(argument) for argument in arguments]


def _deferred(argument: str) -> str:
    key, _, value = argument.partition("=")
    if not value or "." not in key or key.startswith(("hydra", "-", "~")):
        return argument
    try:
        override = OverridesParser.create().parse_overrides([argument])[0]
    except HydraException:
        return argument  # Hydra will say what is wrong with it
    # Twice the same: choice(value) would do, but for null, which Hydra's choice does not take.
    return argument if override.is_sweep_override() else f"{key}={value},{value}"


def register() -> None:
    """Make the sweeper of conf/hydra/sweeper known to Hydra without installing a plugin.

    Hydra instantiates only what seems to live in the package hydra_plugins, which need not exist.
    """
    plugins = Plugins.instance()
    package = sys.modules.setdefault("hydra_plugins", types.ModuleType("hydra_plugins"))
    if not hasattr(package, "__path__"):
        package.__path__ = []
    PetlSweeper.__module__ = MODULE
    alias = types.ModuleType(MODULE)
    alias.PetlSweeper = PetlSweeper  # type: ignore[attr-defined]
    sys.modules[MODULE] = alias
    package.petlbench_sweeper = alias  # type: ignore[attr-defined]
    plugins.register(PetlSweeper)
