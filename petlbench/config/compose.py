"""From Hydra's composed configuration to the typed one of a run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from petlbench.config import (
    compositions,
    deviations,
    labels,
    mistakes,
    options,
    recipes,
    selection,
)
from petlbench.config.composer import BESIDE, mapping
from petlbench.config.construct import build, flat
from petlbench.config.interpolation import NotCovered, Plain
from petlbench.config.schema import Config, DatasetConfig, Factors, Settings, Target
from petlbench.errors import UserError


def single(overrides: Iterable[str]) -> Config:
    """The configuration of one run from overrides such as `method=lora`, for use in Python."""
    overrides = list(overrides)
    try:
        return typed(*compositions.by_composer(overrides))
    except NotCovered:
        composed = compositions.by_hydra(overrides)
        choices = dict(composed.hydra.runtime.choices)
        return finish(compositions.without_hydra(composed), choices)


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
    config = _config(settings, _dataset(settings.dataset, choices["dataset"]), choices)
    # without a source there is nothing to compare with, and `recipes.check` refuses the run
    if config.recipe.name == recipes.NAME and config.recipe.source is not None:
        changed = deviations.changed(config, choices)
        config = replace(config, recipe=replace(config.recipe, changed=changed))
    return config


def _config(settings: Settings, dataset: DatasetConfig, choices: Mapping[str, str]) -> Config:
    return Config(
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


def target_of(node: Mapping[str, Any], where: str) -> Target:
    """The target of a node that names a class or function by `_target_`."""
    path = node.get("_target_")
    if not isinstance(path, str) or "." not in path:
        raise UserError(f"{where}._target_ is {path}; it must be the dotted name of a class")
    return Target(path, {key: value for key, value in node.items() if not key.startswith("_")})


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


def _single(group: str, names: Sequence[str]) -> list[str]:
    """The options that suites of suites list in the end."""
    return options.expand(names, lambda name: options.listed(group, name))


def _refuse_suites(composed: DictConfig, choices: Mapping[str, str]) -> None:
    for group in choices:
        node = composed.get(group) if group in composed else None
        # a task's `suite` is the name of its suite; only a list makes an option a suite
        listed = options.members(group, mapping(node)) if isinstance(node, DictConfig) else None
        if listed is not None:
            raise UserError(
                f"{group}={choices[group]} names a suite, not one {group}; add -m to sweep it, "
                f"or choose one of it: {', '.join(_single(group, listed))}"
            )
