"""What overrides compose: by Hydra itself, or by `Composer` where that covers them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import cast

from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from petlbench.config import search_path
from petlbench.config.composer import Composer
from petlbench.config.interpolation import NotCovered, Plain


def by_hydra(overrides: Iterable[str]) -> DictConfig:
    """What Hydra composes from overrides, with its own node."""
    search_path.register()
    with (
        _without_global_hydra(),
        initialize_config_module(version_base="1.3", config_module=search_path.OWN),
    ):
        return compose("config", list(overrides), return_hydra_config=True)


def without_hydra(composed: DictConfig) -> DictConfig:
    """A composed configuration without Hydra's own node."""
    # Hydra composes in struct mode, in which OmegaConf deletes no key. The node goes
    # before `_container` resolves the rest: outside of a job, job.num and others of it are ???.
    with open_dict(composed):
        del composed["hydra"]
    return composed


def by_composer(overrides: Sequence[str]) -> tuple[Plain, dict[str, str]]:
    """Plain values and choices of overrides; raises NotCovered."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise NotCovered(str(error)) from error
    return current_composer().compose(parsed)


def current_composer() -> Composer:
    """The composer of the packages as their files are now."""
    return _composer(tuple(search_path.packages()), search_path.version())


@lru_cache(maxsize=1)
def _composer(packages: tuple[str, ...], version: int) -> Composer:
    """The composer of the installed packages and a version of their files."""
    search_path.register()
    with (
        _without_global_hydra(),
        initialize_config_module(version_base="1.3", config_module=packages[0]),
    ):
        return Composer(cast(ConfigLoaderImpl, GlobalHydra.instance().config_loader()))


def multirun(overrides: Sequence[str]) -> tuple[ConfigLoaderImpl, DictConfig]:
    """Hydra's loader, and what it composes from overrides for a command with -m."""
    search_path.register()
    with (
        _without_global_hydra(),
        initialize_config_module(version_base="1.3", config_module=search_path.OWN),
    ):
        loader = cast(ConfigLoaderImpl, GlobalHydra.instance().config_loader())
        return loader, loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)


@contextmanager
def _without_global_hydra() -> Iterator[None]:
    """Set Hydra's global instance aside: Hydra refuses to initialise a second one."""
    # `recipe.changed` needs a second composition while a command of Hydra runs
    state = GlobalHydra.instance()
    running = state.hydra
    state.clear()
    try:
        yield
    finally:
        state.hydra = running


def keys_with(overrides: Iterable[str]) -> list[str]:
    """All dotted keys of the configuration with these options, or else of the default one."""
    try:
        return list(keys(by_hydra(overrides)))
    except (HydraException, OmegaConfBaseException):
        return list(keys(by_hydra([])))


def keys(composed: DictConfig) -> Iterator[str]:
    """All dotted keys of a configuration."""
    stack = list(OmegaConf.to_container(composed).items())  # type: ignore[union-attr]
    while stack:
        key, value = stack.pop()
        yield str(key)
        if isinstance(value, dict):
            stack += [(f"{key}.{name}", part) for name, part in value.items()]
