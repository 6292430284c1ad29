"""The overrides of a sweep: read by Hydra's parser, with suites expanded."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import OmegaConf

from petlbench.config import options
from petlbench.errors import UserError, unknown
from petlbench.sweep.axes import Axes


class Overrides:
    """Reads overrides by Hydra's loader, which knows all groups and options."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.loader = loader
        self.parsed = cache(lambda text: self.parse([text])[0])

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """As Hydra reads them."""
        # with the loader, which a glob asks for the options of its group
        return OverridesParser.create(config_loader=self.loader).parse_overrides(list(overrides))

    def axes(self, arguments: Sequence[str], params: Mapping[str, Any]) -> Axes:
        """The overrides for each key of the command and of an experiment's `params`."""
        overrides = self.parse(arguments)
        keys = {override.get_key_element() for override in overrides}
        written = [f"{key}={value!s}" for key, value in params.items()]
        preset = [o for o in self.parse(written) if o.get_key_element() not in keys]
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
            if self.content(group, name).get("hydra", {}).get("sweeper", {}).get("params"):
                raise UserError(f"{group}={name} is a sweep itself; run it without other options")
        return options.expand(names, lambda name: self._suite(group, name))

    def _suite(self, group: str, name: str) -> list[str] | None:
        """The options in a suite, None for other options: `suite` of a task is a name."""
        return options.members(group, self.content(group, name))

    def content(self, group: str, name: str) -> dict[str, Any]:
        """The content of an option's yaml. Raises UserError if there is no such option."""
        result = self.loader.repository.load_config(f"{group}/{name}")
        if result is None:
            raise unknown(group, name, self.loader.get_group_options(group))
        return cast(dict[str, Any], OmegaConf.to_container(result.config))


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
