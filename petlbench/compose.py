"""From Hydra's composed configuration to the plain one that a run takes."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from petlbench.errors import UserError

Config = dict[str, Any]


def finish(composed: DictConfig, choices: Mapping[str, str]) -> Config:
    """The resolved configuration with `factors`: which cell of a table the run fills.

    composed: without its hydra node. choices: the option chosen in each group.
    Raises UserError for a suite, which is no single run, and for a value that was never set.
    """
    _refuse_suites(composed, choices)
    try:
        config = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{first_line(error)}; set it, KEY=VALUE") from error
    assert isinstance(config, dict)
    plain: Config = {str(key): value for key, value in config.items()}
    plain["factors"] = {
        "method": choices["method"],
        "backbone": choices["backbone"],
        "task": choices["dataset"],
        "draw": plain["dataset"].get("draw", 0),
        "seed": plain["seed"],
    }
    return plain


def first_line(error: BaseException) -> str:
    """The first line of a message, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _refuse_suites(composed: DictConfig, choices: Mapping[str, str]) -> None:
    # A method's yaml writes to the root, those of other groups to their node.
    for group, node in (("method", composed), ("dataset", composed.dataset)):
        listed = node.get("suite")
        if OmegaConf.is_list(listed):
            raise UserError(
                f"{group}={choices[group]} names a suite, not one {group}; add -m to sweep it, "
                f"or choose one of it: {', '.join(listed)}"
            )
