"""From Hydra's composed configuration to the plain one that a run takes."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from petlbench import checks
from petlbench.config import options, recipes, search_path
from petlbench.errors import UserError
from petlbench.run.record import PLACES, flat

Config = dict[str, Any]
Mistake = HydraException | OmegaConfBaseException
HIGHEST_SEED = 2**32 - 1  # NumPy's
NODES = ("method", "backbone", "dataset", "input", "train", "protocol", "results", "wandb")
GROUPS = ("method", "backbone", "dataset", "recipe")  # whose options a published row belongs to
FREE = (*PLACES, "backbone.checkpoint", "dataset.draw")  # of a run, whatever was published
REPORT = "report"  # an experiment's node on how its records are shown; no part of a run


def single(overrides: Iterable[str]) -> Config:
    """The configuration of one run from overrides such as `method=lora`, for use in Python."""
    composed = _composed(overrides)
    choices = dict(composed.hydra.runtime.choices)
    with open_dict(composed):
        del composed["hydra"]
    return finish(composed, choices)


def finish(composed: DictConfig, choices: Mapping[str, str]) -> Config:
    """The resolved configuration with `factors`: which cell of a table the run fills.

    With recipe=paper, `recipe.changed` names what the command changed of the options' values.
    composed: without its hydra node. choices: the option chosen in each group.
    Raises UserError for a suite, which is no single run, and for a value that was never set.
    """
    _refuse_suites(composed, choices)
    try:
        config = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"no value for '{error.full_key}'; set {error.full_key}=VALUE") from error
    except OmegaConfBaseException as error:
        if unset := re.search(r"Missing mandatory value: ([\w.]+)", str(error)):  # referred to
            raise UserError(f"no value for '{unset[1]}'; set {unset[1]}=VALUE") from error
        raise UserError(first_line(error)) from error
    assert isinstance(config, dict)
    plain: Config = {str(key): value for key, value in config.items() if key != REPORT}
    for node in NODES:
        if not isinstance(plain[node], Mapping):
            raise UserError(f"'{node}' holds several values; set one of them, {node}.KEY=VALUE")
    if not isinstance(plain["results"]["root"], str):
        raise UserError(f"results.root is {plain['results']['root']}; set results.root=FOLDER")
    plain["factors"] = {
        "method": choices["method"],
        "backbone": _backbone(plain, choices["backbone"]),
        "task": plain["dataset"].get("task", choices["dataset"]),
        "draw": plain["dataset"].get("draw", 0),
        "seed": checks.whole("seed", plain["seed"], low=0, high=HIGHEST_SEED),
    }
    if plain["recipe"]["name"] == recipes.NAME:
        there = plain["recipe"]["source"] is not None
        plain["recipe"]["changed"] = _changed(plain, choices) if there else []
    return plain


def _backbone(config: Config, option: str) -> str:
    """What a backbone is called in records: the option, or the network put in its place."""
    name: str = config["backbone"]["name"]
    own = options.content("backbone", option).get("backbone", {})
    return option if own.get("name", name) == name else name


def _changed(config: Config, choices: Mapping[str, str]) -> list[str]:
    """Dotted names of what decides a result and is otherwise than the options alone have it."""
    options = tuple(f"{group}={choices[group]}" for group in GROUPS if choices.get(group))
    meant, own = dict(_decisive(_unchanged(options))), dict(_decisive(config))
    return sorted(key for key in meant.keys() | own.keys() if meant.get(key) != own.get(key))


@cache
def _unchanged(options: tuple[str, ...]) -> Config:
    """What options say without any value of the command; what has to be given stays '???'."""
    composed = _composed(options)
    with open_dict(composed):
        del composed["hydra"]
    plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _decisive(config: Config) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of what decides a result; a draw and a protocol are choices."""
    nodes = {node: config[node] for node in ("method", "backbone", "dataset", "input", "train")}
    return ((key, value) for key, value in flat(nodes) if key not in FREE)


def _refuse_suites(composed: DictConfig, choices: Mapping[str, str]) -> None:
    # A method's yaml writes to the root, those of other groups to their node.
    nodes = {"method": composed} | {key: composed.get(key) for key in choices if key in composed}
    for group, node in nodes.items():
        listed = node.get("suite") if OmegaConf.is_dict(node) else None
        if isinstance(listed, ListConfig):
            raise UserError(
                f"{group}={choices[group]} names a suite, not one {group}; add -m to sweep it, "
                f"or choose one of it: {', '.join(listed)}"
            )


def explain(error: Mistake, known: Callable[[], Iterable[str]]) -> str:
    """One line for what Hydra or OmegaConf refused; known: the keys that can be set."""
    line = first_line(error)
    if match := re.match(r"Could not override '([^']+)'", line):
        near = get_close_matches(match[1], list(known()), n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"no key '{match[1]}' to set; {hint}--cfg job prints all keys"
    if match := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '([^']+)'", line):
        return f"'{match[1]}' names several values; add -m to sweep them"
    if isinstance(error, OverrideParseException):
        if error.override and "=~" in error.override:
            return f"'{error.override}' cannot be read; write the folder out, without ~"
        return (
            f"'{error.override}' cannot be read ({line}); a value with other signs than letters, "
            "digits and ./_-:~% needs quotes of its own: 'dataset.root=\"my (new) images\"'"
        )
    return line


def first_line(error: BaseException) -> str:
    """The first line of a message, or of its cause's, without its full stop."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, UserError):
        inner = inner.__context__  # OmegaConf wraps what a resolver raises
    error = inner or error
    while not str(error).strip() and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def keys_with(overrides: Iterable[str]) -> list[str]:
    """All dotted keys of the configuration with these options chosen, or else of the default."""
    try:
        return list(keys(_composed(overrides)))
    except HydraException:
        return list(keys(_composed([])))


def keys(composed: DictConfig) -> Iterator[str]:
    """All dotted keys of a configuration."""
    stack = list(OmegaConf.to_container(composed).items())  # type: ignore[union-attr]
    while stack:
        key, value = stack.pop()
        yield str(key)
        if isinstance(value, dict):
            stack += [(f"{key}.{name}", part) for name, part in value.items()]


def _composed(overrides: Iterable[str]) -> DictConfig:
    search_path.register()
    with initialize_config_module(version_base="1.3", config_module=search_path.OWN):
        return compose("config", list(overrides), return_hydra_config=True)
