"""Which of Hydra's own keys may be set. Hydra accepts all of them, also those without effect."""

from collections.abc import Sequence
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

from petlbench.errors import UserError, unknown

# relative paths start from the folder of the command, and only results.root is written
PLACES = ("hydra.run", "hydra.sweep", "hydra.output_subdir", "hydra.job.chdir")
SWEEPER = ("dry_run", "params", "tflops")  # keys of `PetlSweeper`


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse options that Hydra has not, and those without their value: it would print a usage."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    parser.parse_args(arguments)


def _refuse(message: str) -> NoReturn:
    raise UserError(
        f"{message}; values are given as KEY=VALUE, such as method=lora; --help shows more"
    )


def check(arguments: Sequence[str]) -> None:
    """Refuse overrides of keys of Hydra that do not exist or have no effect here."""
    has_launcher = any(text.startswith("hydra/launcher=") for text in arguments)
    for argument in arguments:
        key, sign, value = argument.lstrip("+~").partition("=")
        if key == "hydra/sweeper" and sign and value != "petlbench":
            raise UserError(
                f"hydra/sweeper={value} cannot expand suites and read the store; leave it out"
            )
        if key in ("hydra", "hydra.sweeper", "hydra.launcher"):
            raise UserError(f"{key} cannot be changed as a whole; set its keys, {key}.KEY=VALUE")
        if key.startswith("hydra.launcher.") and not has_launcher:
            raise UserError(f"{key} belongs to a launcher; add hydra/launcher=local")
        if key.startswith("hydra."):
            _check_key(key)


def _check_key(key: str) -> None:
    if any(f"{key}.".startswith(f"{place}.") for place in PLACES):
        raise UserError(
            f"{key} has no effect: records go to results.root, set results.root=FOLDER; relative "
            "paths start from the folder of the command"
        )
    node: Any = OmegaConf.structured(HydraConf)
    place = "hydra"
    for part in key.split(".")[1:]:
        known = SWEEPER if place == "hydra.sweeper" else _names(node)
        if not known:  # open: settings of the logging, variables of the environment
            return
        if part not in known:
            raise unknown(f"key below {place}", part, known)
        place = f"{place}.{part}"
        is_node = isinstance(node, DictConfig) and not OmegaConf.is_missing(node, part)
        node = node[part] if is_node else None


def _names(node: Any) -> Sequence[str]:
    # keys(): a DictConfig contains no missing value
    return [*map(str, node.keys())] if isinstance(node, DictConfig) else []
