"""Functions for interpolations in the yaml files: ${petlbench.NAME:ARGUMENTS}."""

import re
from collections.abc import Callable
from pathlib import Path

from hydra.utils import get_method
from omegaconf import OmegaConf


def register() -> None:
    """Make the resolvers known to OmegaConf."""
    functions: dict[str, Callable[..., object]] = {
        "name": name_of,
        "function": call,
        "before_crop": before_crop,
        "tenth": tenth,
    }
    for name, function in functions.items():
        # replace: each composition registers, and OmegaConf refuses a known name
        OmegaConf.register_new_resolver(f"petlbench.{name}", function, replace=True)


def call(path: str, *arguments: object) -> object:
    """${petlbench.function:PATH,ARGUMENTS}: the value of a function, by its dotted name."""
    return get_method(path)(*arguments)


def name_of(root: str) -> str:
    """${petlbench.name:ROOT}: the name of a folder of images."""
    place = Path(str(root)).expanduser().resolve()
    name = place.stem if place.is_file() else place.name
    return re.sub(r"[^\w.-]+", "_", name) or "images"  # a folder of the records has this name


def tenth(epochs: object) -> object:
    """${petlbench.tenth:EPOCHS}: a tenth of a training, from 1 to 10 epochs."""
    return max(1, min(10, epochs // 10)) if isinstance(epochs, int) else epochs


def before_crop(size: int) -> int:
    """${petlbench.before_crop:SIZE}: pixels that images are resized to before the centre crop."""
    return round(size * 256 / 224)  # the field's 256 for 224 pixels
