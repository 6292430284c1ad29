"""What a command changes of a published recipe: `recipe.changed` of a run."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from petlbench.config import compositions
from petlbench.config.composer import GROUPS
from petlbench.config.construct import flat
from petlbench.config.interpolation import NotCovered, Plain
from petlbench.config.schema import Config

# nodes that `recipe.changed` compares
DECISIVE = ("method", "backbone", "dataset", "input", "train")
# Folders of the machine, and what a run may choose under any published recipe.
FREE = (
    *("dataset.cache", "dataset.root", "backbone.checkpoint", "dataset.draw"),
    *("data.root", "results.root"),
)


def changed(config: Config, choices: Mapping[str, str]) -> list[str]:
    """Dotted names of decisive values that differ from those of the options alone."""
    selected = tuple(f"{group}={choices[group]}" for group in GROUPS if choices.get(group))
    published, own = decisive(composed(selected)), decisive(config.plain())
    return sorted(key for key in published | own if published.get(key) != own.get(key))


# cached: a sweep asks for the same options once for each run
@cache
def composed(overrides: tuple[str, ...]) -> Plain:
    """The configuration of overrides as plain values; unset ones stay '???'. Do not change it."""
    try:
        return compositions.by_composer(overrides)[0]
    except NotCovered:
        found = compositions.without_hydra(compositions.by_hydra(overrides))
        plain = OmegaConf.to_container(found, resolve=True, throw_on_missing=False)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}


def decisive(plain: Mapping[Any, Any]) -> Plain:
    """Dotted names and values of what decides a result; a draw and a protocol are choices."""
    nodes = {node: plain[node] for node in DECISIVE if node in plain}
    return {key: value for key, value in flat(nodes) if key not in FREE}
