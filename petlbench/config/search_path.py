"""The configuration trees: this project's, and those that installed packages add to it.

A package adds methods, backbones, tasks or experiments by an entry point of the group
`petlbench.conf`, whose value is a package of yaml files laid out as conf/ is:

    [project.entry-points."petlbench.conf"]
    mine = "mine.conf"
"""

import logging
import os
from collections.abc import Iterator
from functools import cache
from importlib import import_module, resources
from importlib.metadata import entry_points
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from petlbench.config import recipes, resolvers
from petlbench.config.construct import composable
from petlbench.config.schema import Settings
from petlbench.errors import one_line

OWN = "petlbench.conf"
log = logging.getLogger("petlbench")


@cache
def packages() -> list[str]:
    """Packages of yaml files: the project's own, then those of others by their entries' names.

    A package that cannot be imported costs its own options and one warning.
    """
    others = sorted(entry_points(group=OWN), key=lambda entry: entry.name)
    names = dict.fromkeys([OWN, *(entry.value for entry in others)])
    return [name for name in names if name == OWN or _is_importable(name)]


def version() -> int:
    """A number that changes with every yaml file of the packages: notebooks live for long."""
    roots = (resources.files(package) for package in packages())
    files = (file for root in roots if isinstance(root, Path) for file in _yaml_files(str(root)))
    return hash(tuple((file.path, file.stat().st_mtime_ns) for file in files))


def _yaml_files(folder: str) -> Iterator["os.DirEntry[str]"]:
    # not by pathlib, which takes more than twice as long: each composition asks for the version
    with os.scandir(folder) as items:
        for item in items:
            if item.is_dir(follow_symlinks=False):
                yield from _yaml_files(item.path)
            elif item.name.endswith(".yaml"):
                yield item


class SearchPath(SearchPathPlugin):
    """Lets Hydra find published values, and what other packages add."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Hydra's hook, called once for each composition."""
        search_path.append(provider="petlbench", path=f"{recipes.SCHEME}://")
        for package in packages()[1:]:  # appended: Hydra takes the first match
            search_path.append(provider=package, path=f"pkg://{package}")


def register() -> None:
    """Make schema, trees and resolvers known to Hydra, without installing a plugin."""
    Plugins.instance().register(recipes.Published)
    Plugins.instance().register(SearchPath)
    # `schema` is the first entry of the defaults list in conf/config.yaml
    ConfigStore.instance().store(
        name="schema", node=composable(Settings), provider="petlbench.config.schema"
    )
    resolvers.register()


def _is_importable(package: str) -> bool:
    try:
        if not hasattr(import_module(package), "__path__"):
            raise ImportError("it is a module, not a package")
    except Exception as error:  # whatever the code of another package raises on import
        log.warning(
            "warning: package '%s' (entry point %s) cannot be imported (%s); its options are left "
            "out; repair or uninstall it",
            *(package, OWN, one_line(error)),
        )
        return False
    return True
