"""The configuration trees: this project's, and those that installed packages add to it.

A package adds methods, backbones, tasks or experiments by an entry point of the group
`petlbench.conf`, whose value is a package of yaml files laid out as conf/ is:

    [project.entry-points."petlbench.conf"]
    mine = "mine.conf"
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from importlib.abc import Traversable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from petlbench import recipes
from petlbench.data import tree
from petlbench.errors import UserError

OWN = "petlbench.conf"
SuiteOf = Callable[[str], Sequence[str] | None]


@cache
def packages() -> list[str]:
    """Packages of yaml files: the project's own, then those of others by their entries' names."""
    others = sorted(entry_points(group=OWN), key=lambda entry: entry.name)
    return list(dict.fromkeys([OWN, *(entry.value for entry in others)]))


def names(group: str) -> list[str]:
    """The options of a group, sorted, e.g. mini/digits; a name of this project wins."""
    return sorted(_files(group))


def content(group: str, name: str) -> dict[str, Any]:
    """What an option's yaml says; empty where there is no such option."""
    file = _files(group).get(name)
    try:
        found = (yaml.safe_load(file.read_text()) if file is not None else None) or {}
    except yaml.YAMLError as error:
        raise UserError(f"'{file}' is no yaml: {_compact(error)}") from error
    if not isinstance(found, dict):
        raise UserError(f"'{file}' holds a {type(found).__name__}; it must map keys to values")
    return found


def listed(group: str, name: str) -> list[str] | None:
    """What a suite lists, or None where the option is none; a task's yaml may name its suite."""
    suite = content(group, name).get("suite")
    return suite if isinstance(suite, list) else None


def expand(names: Iterable[str], suite_of: SuiteOf) -> list[str]:
    """Names with every suite replaced by what it lists, each name once, in order.

    suite_of: what a name lists, or None if it is no suite. Suites may list suites.
    """
    return list(dict.fromkeys(_expanded(names, suite_of, ())))


def _expanded(names: Iterable[str], suite_of: SuiteOf, above: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if name in above:
            raise UserError(f"suite '{name}' contains itself: {' > '.join((*above, name))}")
        listed = suite_of(name)
        if listed is None:
            yield name
        else:
            yield from _expanded(listed, suite_of, (*above, name))


def text(group: str, name: str) -> str:
    """An option's yaml as it is written."""
    return _files(group)[name].read_text()


@cache
def _files(group: str) -> dict[str, Traversable]:
    found: dict[str, Traversable] = {}
    for package in packages():
        try:
            folder = resources.files(package) / group
        except Exception as error:  # whatever the code of another package does on import
            raise UserError(
                f"an installed package names '{package}' as its configuration (entry point {OWN})"
                f", and that is no package to import: {_compact(error)}; repair or uninstall it"
            ) from error
        for name, file in _walk(folder) if folder.is_dir() else ():
            found.setdefault(name, file)
    return found


def _compact(error: Exception) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _walk(folder: Traversable) -> Iterator[tuple[str, Traversable]]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from ((f"{item.name}/{name}", file) for name, file in _walk(item))
        elif item.name.endswith(".yaml"):
            yield item.name.removesuffix(".yaml"), item


class Others(SearchPathPlugin):
    """Lets Hydra find published values, and what other packages add."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Hydra's hook, called once for each composition."""
        search_path.append(provider="petlbench", path=f"{recipes.SCHEME}://")
        for package in packages()[1:]:
            search_path.append(provider=package, path=f"pkg://{package}")


def register() -> None:
    """Make the trees and resolvers known to Hydra, without installing a plugin."""
    Plugins.instance().register(recipes.Published)
    Plugins.instance().register(Others)
    resolvers: dict[str, Callable[..., object]] = {
        "name": _name,
        "classes": _classes,
        "content": _content,
        "device": _device,
        "before_crop": _before_crop,
        "tenth": _tenth,
    }
    for name, read in resolvers.items():
        OmegaConf.register_new_resolver(f"petlbench.{name}", read, replace=True)


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
    from petlbench import build, provenance  # torch, which plain configurations do not need

    device = build.device({"device": name})
    return "cpu" if device.type == "cpu" and timed is not True else provenance.device_name(device)


def _content(root: str) -> str:
    """${petlbench.content:ROOT}: what tells it from another one."""
    return tree.scan(root).content()
