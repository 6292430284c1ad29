"""`select`: how protocol=select tunes. It decides which runs there are and is part of none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petlbench.checks import choice, whole
from petlbench.config.construct import build, typed
from petlbench.config.schema import HIGHEST_SEED
from petlbench.errors import UserError

NAME, TUNE = "select", "tune"
SPACE = "select.space"
TASK, SUITE = "task", "suite"
MOST_TRIALS = 100_000  # a bound against typing errors: each trial is a run


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """trials: points for each choice. per: what chooses its own values.

    trial_seeds: of each trial, whose scores are averaged. seed: draws points. space: of methods
    without `tune` in their yaml, see petlbench/sweep/space.py.
    """

    trials: int
    per: str
    trial_seeds: list[int]
    seed: int
    space: dict[str, Any]

    def __post_init__(self) -> None:
        whole("select.trials", self.trials, low=1, high=MOST_TRIALS)
        choice("select.per", self.per, (TASK, SUITE))
        whole("select.seed", self.seed, low=0, high=HIGHEST_SEED)
        for seed in self.trial_seeds:
            whole("a seed of select.trial_seeds", seed, low=0, high=HIGHEST_SEED)
        if not self.trial_seeds or len(set(self.trial_seeds)) < len(self.trial_seeds):
            raise UserError(
                f"select.trial_seeds is {self.trial_seeds}; it must be a list of different seeds "
                "such as [0,1]"
            )


def check(arguments: Sequence[str]) -> None:
    """Refuse keys of the command that no run has: they would be set and change nothing."""
    is_sweep = bool({"-m", "--multirun"} & set(arguments))
    for argument in arguments:
        key = argument.lstrip("+~").partition("=")[0]
        node = key.partition(".")[0]
        if node == TUNE:
            raise UserError(
                f"{key} can be set in the yaml of a method alone; select.space has the values of "
                "methods without it"
            )
        if node == NAME and not is_sweep:
            raise UserError(f"{key} belongs to protocol=select; add -m, or leave it out")


def settings(node: Any, spaces: Mapping[str, Any]) -> SelectConfig:
    """The typed node `select`. Raises UserError for a wrong value.

    spaces: dotted keys below `select.space` and what replaces their values. Hydra would merge a
    range into a list, or into another range.
    """
    # of OmegaConf's messages about a mapping, some name no key
    if isinstance(node, Mapping) and not isinstance(space := node.get("space", {}), Mapping):
        raise UserError(f"{SPACE} is {space}; it must map keys to values")
    for key, value in spaces.items():
        *above, last = key.split(".")
        below: Any = node["space"]
        for part in above:
            below = below.setdefault(part, {})
            if not isinstance(below, dict):
                raise UserError(f"{SPACE}.{key}: {part} has values of its own, {below}")
        below[last] = value
    return build(SelectConfig, typed(SelectConfig, node, NAME), NAME)
