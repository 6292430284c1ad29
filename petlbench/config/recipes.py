"""Published hyper-parameters: results/published/recipes, as options that Hydra finds.

A file is <method>__<backbone>__<suite>.yaml:

    source          repository @ commit, and the files in it that have the values
    not_reproduced  what the values do not reproduce of the authors' code, one sentence each
    common          values of all tasks, nested as in conf/
    columns         dotted keys of the values in a row
    rows            task: its values

`recipe=paper` composes the row of the run's method, backbone and task; the command line overrides
it. Hydra asks for `published/paper/<method>/<backbone>/<suite>/<task>`, so only this file is read.
"""

from collections import defaultdict
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from petlbench.config.schema import Config
from petlbench.config.yaml_text import parsed
from petlbench.errors import Unsupported

NAME = "paper"
GROUP = f"published/{NAME}/"  # as in the defaults list of conf/config.yaml
SCHEME = "recipes"
Node = dict[str, Any]


def row(method: str, backbone: str, task: str) -> Node | None:
    """The published values of a run, nested as in conf/, or None if there are none.

    task: its option of `dataset`, e.g. vtab/cifar.
    """
    suite, _, name = task.partition("/")
    content = _content(method, backbone, suite)
    if name not in content["rows"]:
        return None
    config = OmegaConf.create(content["common"])
    for key, value in zip(content["columns"], content["rows"][name], strict=True):
        OmegaConf.update(config, key, value)
    OmegaConf.update(config, "recipe", provenance(method, backbone, suite))
    # not resolved: ${train.lr} in a file means the value of the run, with the command's overrides
    node = OmegaConf.to_container(config)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def tasks(method: str, backbone: str, suite: str) -> list[str]:
    """The tasks of a file as options of `dataset`, e.g. vtab/cifar."""
    return [f"{suite}/{name}" for name in _content(method, backbone, suite)["rows"]]


def provenance(method: str, backbone: str, suite: str) -> Node:
    """`source` and `not_reproduced` of a file."""
    content = _content(method, backbone, suite)
    return {key: content[key] for key in ("source", "not_reproduced")}


@cache
def covered() -> list[tuple[str, str, str]]:
    """Method, backbone and suite of each file, sorted."""
    # two underscores: the names themselves have single ones
    names = (file.name.removesuffix(".yaml").split("__") for file in _folder().iterdir())
    return sorted((name[0], name[1], name[2]) for name in names)


def check(config: Config) -> None:
    """Raise Unsupported if the run asks for published values and there are none."""
    # conf/recipe/paper.yaml sets null, which a published row replaces
    if config.recipe.source is not None:
        return
    factors = config.factors
    raise Unsupported(
        f"recipe={NAME} has no values for {factors.method} on {factors.backbone} and "
        f"{factors.task}; it has some for {_coverage(factors.method)}"
    )


def _coverage(method: str) -> str:
    """Backbones and suites with published values of the method, or of all if it has none."""
    own = [file for file in covered() if file[0] == method]
    places: dict[str, list[str]] = defaultdict(list)
    for name, backbone, suite in own or covered():
        places[f"on {backbone} with {suite}"].append(name)
    return "; ".join(f"{', '.join(names)} {place}" for place, names in places.items())


def _folder() -> Traversable:
    return resources.files("petlbench.published") / "recipes"


@cache
def _content(method: str, backbone: str, suite: str) -> dict[str, Any]:
    """The content of a file; without rows if there is no file."""
    if (method, backbone, suite) not in covered():
        return {"rows": {}}
    text = (_folder() / f"{method}__{backbone}__{suite}.yaml").read_text()
    content: dict[str, Any] = parsed(text)
    return content


class Published(ConfigSource):
    """Loads published/paper/<method>/<backbone>/<suite>/<task> for Hydra."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """The row as an option that sets keys at the root of the configuration."""
        return ConfigResult(
            config=OmegaConf.create(_row_at(config_path)),
            path=self.full_path(),
            provider=self.provider,
            header={"package": "_global_"},  # as `# @package _global_` in a yaml
        )

    def is_config(self, config_path: str) -> bool:
        return _row_at(config_path) is not None

    def is_group(self, config_path: str) -> bool:
        """False: lists of groups do not show published values."""
        return False

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


def _row_at(config_path: str) -> Node | None:
    """The row of a path; None if there is none."""
    parts = config_path.removeprefix(GROUP).split("/", maxsplit=2)  # vtab/cifar is one task
    if not config_path.startswith(GROUP) or len(parts) < 3:
        return None
    method, backbone, task = parts
    return row(method, backbone, task)
