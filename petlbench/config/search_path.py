"""The configuration trees: this project's, and those that installed packages add to it.

A package adds methods, backbones, tasks or experiments by an entry point of the group
`petlbench.conf`, whose value is a package of yaml files laid out as conf/ is:

    [project.entry-points."petlbench.conf"]
    mine = "mine.conf"
"""

from functools import cache
from importlib.metadata import entry_points

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from petlbench.config import recipes, resolvers

OWN = "petlbench.conf"


@cache
def packages() -> list[str]:
    """Packages of yaml files: the project's own, then those of others by their entries' names."""
    others = sorted(entry_points(group=OWN), key=lambda entry: entry.name)
    return list(dict.fromkeys([OWN, *(entry.value for entry in others)]))


class Others(SearchPathPlugin):
    """Lets Hydra find published values, and what other packages add."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Hydra's hook, called once for each composition."""
        search_path.append(provider="petlbench", path=f"{recipes.SCHEME}://")
        for package in packages()[1:]:
            search_path.append(provider=package, path=f"pkg://{package}")


def register() -> None:
    """Make the configuration trees and resolvers known to Hydra, without installing a plugin."""
    Plugins.instance().register(recipes.Published)
    Plugins.instance().register(Others)
    resolvers.register()
