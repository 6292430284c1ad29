"""Functions for interpolations in the yaml files: ${petlbench.NAME:ARGUMENTS}."""

import re
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

from petlbench.data.readers import tree


def register() -> None:
    """Make the resolvers known to OmegaConf."""
    functions: dict[str, Callable[..., object]] = {
        "name": _name,
        "classes": _classes,
        "content": _content,
        "device": _device,
        "before_crop": _before_crop,
        "tenth": _tenth,
    }
    for name, function in functions.items():
        OmegaConf.register_new_resolver(f"petlbench.{name}", function, replace=True)


def _name(root: str) -> str:
    """${petlbench.name:ROOT}: what a folder of images is called."""
    place = Path(root).expanduser().resolve()
    name = place.stem if place.is_file() else place.name
    return re.sub(r"[^\w.-]+", "_", name) or "images"


def _classes(root: str) -> int:
    """${petlbench.classes:ROOT}: the number of its classes."""
    return len(tree.scan(root).names)


def _tenth(epochs: object) -> object:
    """${petlbench.tenth:EPOCHS}: a tenth of a training, from 1 to 10 epochs."""
    return max(1, min(10, epochs // 10)) if isinstance(epochs, int) else epochs


def _before_crop(size: int) -> int:
    """${petlbench.before_crop:SIZE}: what images are resized to before their centre is cut out."""
    return round(size * 256 / 224)  # the field's 256 for 224 pixels


def _device(name: str, timed: object) -> str:
    """${petlbench.device:${device},${probe.speed}}: what tells records of devices apart.

    Counts are the same on every CPU, so one counts as another unless it is timed.
    """
    from petlbench.run import build, provenance  # torch, which plain configurations do not need

    device = build.device({"device": name})
    return "cpu" if device.type == "cpu" and timed is not True else provenance.device_name(device)


def _content(root: str) -> str:
    """${petlbench.content:ROOT}: what tells it from another one."""
    return tree.scan(root).content()
