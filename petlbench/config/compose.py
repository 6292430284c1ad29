"""From Hydra's composed configuration to the typed one of a run."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, cast

from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from petlbench.config import labels, mistakes, options, recipes, search_path, selection
from petlbench.config.composer import BESIDE, GROUPS, Composer, mapping
from petlbench.config.construct import build, flat
from petlbench.config.interpolation import NotCovered
from petlbench.config.schema import Config, DatasetConfig, Factors, Settings, Target
from petlbench.errors import UserError

# nodes that `recipe.changed` compares
DECISIVE = ("method", "backbone", "dataset", "input", "train")
# Folders of the machine, and what a run may choose under any published recipe.
FREE = (
    *("dataset.cache", "dataset.root", "backbone.checkpoint", "dataset.draw"),
    *("data.root", "results.root"),
)
Plain = dict[str, Any]


def single(overrides: Iterable[str]) -> Config:
    """The configuration of one run from overrides such as `method=lora`, for use in Python."""
    overrides = list(overrides)
    try:
        return typed(*_fast(overrides))
    except NotCovered:
        composed = composition(overrides)
        choices = dict(composed.hydra.runtime.choices)
        return finish(without_hydra(composed), choices)


def finish(composed: DictConfig, choices: Mapping[str, str]) -> Config:
    """The typed configuration of a run that Hydra composed.

    composed: without its hydra node. choices: the selected option of each group.
    Raises UserError for a suite, which is not a single run, and for a wrong or missing value.
    """
    _refuse_suites(composed, choices)
    return typed(_container(composed), choices)


def typed(plain: Plain, choices: Mapping[str, str]) -> Config:
    """The typed configuration of plain values, with `factors`: which cell of a table it fills.

    With recipe=paper, `recipe.changed` names what the command changed of the options' values.
    """
    if choices.get("protocol") == selection.NAME:
        raise UserError(
            "protocol=select is a sweep of trials and then final runs; add -m, or choose the "
            "protocol of one run, such as final"
        )
    settings = build(Settings, plain)
    _refuse_not_finite(plain)
    labels.check(plain, choices)
    dataset = _dataset(settings.dataset, choices["dataset"])
    config = Config(
        factors=Factors(
            method=choices["method"],
            backbone=labels.backbone(settings.backbone.name, choices["backbone"]),
            task=dataset.task,
            draw=dataset.draw,
            seed=settings.seed,
        ),
        method=target_of(settings.method, "method"),
        dataset=dataset,
        **{key: getattr(settings, key) for key in Config.shared_keys()},
    )
    # without a source there is nothing to compare with, and `recipes.check` refuses the run
    if config.recipe.name == recipes.NAME and config.recipe.source is not None:
        changed = _changed(config, choices)
        config = replace(config, recipe=replace(config.recipe, changed=changed))
    return config


def target_of(node: Mapping[str, Any], where: str) -> Target:
    """The target of a node that names a class or function by `_target_`."""
    path = node.get("_target_")
    if not isinstance(path, str) or "." not in path:
        raise UserError(f"{where}._target_ is {path}; it must be the dotted name of a class")
    return Target(path, {key: value for key, value in node.items() if not key.startswith("_")})


def without_hydra(composed: DictConfig) -> DictConfig:
    """A composed configuration without Hydra's own node."""
    # Hydra composes in struct mode, in which OmegaConf deletes no key. The node goes
    # before `_container` resolves the rest: outside of a job, job.num and others of it are ???.
    with open_dict(composed):
        del composed["hydra"]
    return composed


def composition(overrides: Iterable[str]) -> DictConfig:
    """What Hydra composes from overrides, with its own node."""
    search_path.register()
    with (
        _without_global_hydra(),
        initialize_config_module(version_base="1.3", config_module=search_path.OWN),
    ):
        return compose("config", list(overrides), return_hydra_config=True)


def multirun(overrides: Sequence[str]) -> tuple[ConfigLoaderImpl, DictConfig]:
    """Hydra's loader, and what it composes from overrides for a command with -m."""
    search_path.register()
    with (
        _without_global_hydra(),
        initialize_config_module(version_base="1.3", config_module=search_path.OWN),
    ):
        loader = cast(ConfigLoaderImpl, GlobalHydra.instance().config_loader())
        return loader, loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)


def _fast(overrides: Sequence[str]) -> tuple[Plain, dict[str, str]]:
    """Plain values and choices of overrides; raises NotCovered."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise NotCovered(str(error)) from error
    return _current().compose(parsed)


def _current() -> Composer:
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
        return list(keys(composition(overrides)))
    except (HydraException, OmegaConfBaseException):
        return list(keys(composition([])))


def keys(composed: DictConfig) -> Iterator[str]:
    """All dotted keys of a configuration."""
    stack = list(OmegaConf.to_container(composed).items())  # type: ignore[union-attr]
    while stack:
        key, value = stack.pop()
        yield str(key)
        if isinstance(value, dict):
            stack += [(f"{key}.{name}", part) for name, part in value.items()]


def _container(composed: DictConfig) -> Plain:
    """Plain values of a composed configuration, interpolations resolved."""
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(mistakes.unresolved(error)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key not in BESIDE}


def _dataset(node: Plain, option: str) -> DatasetConfig:
    """The typed part of `dataset`, beside the values that its reader takes."""
    missing = [key for key in ("title", "suite", "group", "classes") if key not in node]
    if missing:
        key = f"dataset.{missing[0]}"
        raise UserError(f"{key} is missing; set {key}=VALUE, or choose another dataset")
    target = target_of(node, "dataset")
    # `task` is the name in records; readers do not take it
    values = {key: value for key, value in target.values.items() if key != "task"}
    return DatasetConfig(
        target=Target(target.path, values),
        task=node.get("task", option),
        names_task="task" in node,
        title=node["title"],
        suite=node["suite"],
        group=node["group"],
        classes=node["classes"],
        draw=node["draw"] if "draw" in node else node.get("fold", 0),
    )


def _changed(config: Config, choices: Mapping[str, str]) -> list[str]:
    """Dotted names of decisive values that differ from those of the options alone."""
    selected = tuple(f"{group}={choices[group]}" for group in GROUPS if choices.get(group))
    published, own = _unchanged(selected), _decisive(config.plain())
    return sorted(key for key in published | own if published.get(key) != own.get(key))


# cached: a sweep asks for the same options once for each run
@cache
def _unchanged(selected: tuple[str, ...]) -> Plain:
    """Decisive values of options without any value of the command; unset ones stay '???'."""
    try:
        return _decisive(_fast(selected)[0])
    except NotCovered:
        composed = without_hydra(composition(selected))
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
        assert isinstance(plain, dict)
        return _decisive(plain)


def _decisive(plain: Mapping[Any, Any]) -> Plain:
    """Dotted names and values of what decides a result; a draw and a protocol are choices."""
    nodes = {node: plain[node] for node in DECISIVE}
    return {key: value for key, value in flat(nodes) if key not in FREE}


def _refuse_not_finite(plain: Plain) -> None:
    """Refuse nan and inf where no other check has: JSON has neither, and records are JSON."""
    if _is_finite(plain):
        return
    for key, value in flat(plain):
        if not _is_finite(value):
            raise UserError(f"{key} is {value}; it must be finite")


def _is_finite(value: Any) -> bool:
    """Whether a value is finite, or all values in it are."""
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _refuse_suites(composed: DictConfig, choices: Mapping[str, str]) -> None:
    for group in choices:
        node = composed.get(group) if group in composed else None
        # a task's `suite` is the name of its suite; only a list makes an option a suite
        listed = options.members(group, mapping(node)) if isinstance(node, DictConfig) else None
        if listed is not None:
            raise UserError(
                f"{group}={choices[group]} names a suite, not one {group}; add -m to sweep it, "
                f"or choose one of it: {', '.join(listed)}"
            )
