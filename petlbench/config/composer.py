"""Composes many configurations fast, with Hydra's result.

Hydra takes about 0.1 s for a configuration, because it reads and merges every file again. A
`Composer` asks Hydra once for the files of each option, and merges them as plain values. This is
exact as long as no option changes the files of another group, which is checked. `NotCovered`
tells that a combination needs Hydra itself. That includes every mistake, because Hydra and
OmegaConf explain it. Like sweep/plugin.py, this module uses Hydra's private interface.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import _tree_to_list, create_defaults_list
from hydra.core.default_element import DefaultsTreeNode, GroupDefault, InputDefault
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from petlbench.config.interpolation import MISSING, REFERENCE, NotCovered, Plain, resolved

ROOT = "config"
GROUPS = ("method", "backbone", "dataset", "recipe")  # the factors of a table
# keys of yaml files that are no part of a run
BESIDE = ("report", "facts", "family", "baseline", "component", "tune", "select")
NO_VALUES = ("hydra", "defaults")
File = tuple[str, str | None]  # path in the configuration tree, and package


class Composer:
    """Composes configurations with one loader of Hydra, and keeps what it read."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.loader = loader
        self._sets: dict[tuple[str, ...], OptionSet] = {}
        self._is_group = cache(loader.repository.group_exists)

    def compose(self, overrides: Sequence[Override]) -> tuple[Plain, dict[str, str]]:
        """Typed plain values without Hydra's node, and the choice of each group.

        Raises NotCovered if Hydra has to compose them.
        """
        fixed, chosen, values = [], [], []
        for override in overrides:
            if override.is_hydra_override():
                fixed.append(override)
            elif not self._is_group(override.key_or_group):
                values.append(override)
            elif override.get_key_element() in GROUPS and isinstance(override.value(), str):
                chosen.append(override)
            else:
                fixed.append(override)
        name = tuple(str(override.input_line) for override in fixed)
        try:
            if name not in self._sets:
                self._sets[name] = OptionSet(self.loader, fixed)
            plain, choices = self._sets[name].merged(chosen)
            if any(_is_suite(plain.get(group)) for group in GROUPS):
                raise NotCovered("a suite is no run")
            for override in values:
                plain = assigned(plain, override)
            return resolved(plain), dict(choices)
        except (HydraException, OmegaConfBaseException) as error:
            raise NotCovered(str(error)) from error


class OptionSet:
    """The files of all options of GROUPS under fixed choices of the other groups.

    fixed: overrides such as experiment=demo, and those of Hydra's own keys.
    """

    def __init__(self, loader: ConfigLoaderImpl, fixed: Sequence[Override]) -> None:
        texts = [str(override.input_line) for override in fixed]
        _, self.repository = loader._parse_overrides_and_create_caching_repo(ROOT, texts)
        self.fixed = list(fixed)
        self.base = Listing(self.repository, self.fixed)
        self._segments: dict[tuple[str, ...], tuple[str, list[File]]] = {}
        self._contents: dict[File, Plain] = {}
        self._last: tuple[list[str], tuple[Plain, dict[str, str]]] | None = None

    def merged(self, chosen: Sequence[Override]) -> tuple[Plain, dict[str, str]]:
        """Plain values with interpolations, and the choice of each group.

        Callers do not change them: the same choice often comes again, with other values.
        """
        texts = [str(override.input_line) for override in chosen]
        if self._last is None or texts != self._last[0]:
            self._last = texts, self._merged(chosen)
        return self._last[1]

    def _merged(self, chosen: Sequence[Override]) -> tuple[Plain, dict[str, str]]:
        choices = dict(self.base.choices)
        changed: dict[str, list[File]] = {}
        for override in chosen:
            group = override.get_key_element()
            changed[group] = self._segment(group, override)
            choices[group] = str(override.value())
        plain: Plain = {}
        for key, files in self.base.segments.items():
            if key in self.base.templates:
                files, choices[key] = self._interpolated(key, choices)
            for file in changed.get(key, files):
                merge(plain, self._content(file))
        return plain, choices

    def _segment(self, group: str, override: Override) -> list[File]:
        """The files of an option, if it changes no other part of the configuration."""
        own = f"{group}/{override.value()}"
        kind = (group, *self._kind(own))
        if kind not in self._segments:
            listing = Listing(self.repository, [*self.fixed, override])
            if listing.without(group) != self.base.without(group):
                raise NotCovered(f"{override.input_line} changes other groups")
            self._segments[kind] = own, listing.segments[group]
        first, files = self._segments[kind]
        return [(own if path == first else path, package) for path, package in files]

    def _kind(self, path: str) -> tuple[str, ...]:
        """Equal for options of a group whose files differ in the option's own file alone.

        Hydra takes 50 ms to list the files of an option, and most tasks of a suite are alike.
        """
        result = self.repository.load_config(path)
        if result is None:
            return (path,)
        package = str(result.header["package"])
        entries = repr(result.defaults_list)
        is_named = "_name_" in package or "_name_" in entries
        return path if is_named else path.rpartition("/")[0], package, entries

    def _interpolated(self, key: str, choices: Mapping[str, str]) -> tuple[list[File], str]:
        """The files of an optional entry such as ${method}/${backbone}, and its option."""
        option = REFERENCE.sub(lambda found: str(choices[found[1]]), self.base.templates[key])
        path = f"{key}/{option}"
        result = self.repository.load_config(path)
        if result is None:
            return [], option
        package = result.header["package"]
        if result.defaults_list or package is None:
            raise NotCovered(path)
        return [(path, package.removeprefix("_global_").removeprefix("."))], option

    def _content(self, file: File) -> Plain:
        """The values of a file in its package; callers do not change them."""
        if file not in self._contents:
            path, package = file
            plain = mapping(self.repository.load_config(path).config)  # type: ignore[union-attr]
            for key in reversed(package.split(".") if package else ()):
                plain = {key: plain}
            kept = {key: value for key, value in plain.items() if key not in (*BESIDE, *NO_VALUES)}
            self._contents[file] = kept
        return self._contents[file]


class Listing:
    """The files of a configuration, by the entries of the primary defaults list, in its order."""

    def __init__(self, repository: Any, overrides: Sequence[Override]) -> None:
        found = create_defaults_list(repository, ROOT, list(overrides), True, False)
        if not all(override.is_hydra_override() for override in found.config_overrides):
            raise NotCovered("an override of a value")
        # the second child of the virtual root; the first one lists Hydra's own files
        root = _children(found.defaults_tree)[-1]
        assert isinstance(root, DefaultsTreeNode)
        self.choices = {key: str(value) for key, value in found.overrides.known_choices.items()}
        entries = repository.load_config(ROOT).defaults_list
        self.templates = {
            str(entry.group): str(entry.value)
            for entry in entries
            if isinstance(entry, GroupDefault) and entry.is_interpolation()
        }
        self.segments: dict[str, list[File]] = {}
        for child in _children(root):
            node = child.node if isinstance(child, DefaultsTreeNode) else child
            is_group = isinstance(node, GroupDefault)
            key = node.get_override_key() if is_group else node.get_config_path()
            self.segments[key] = list(_files(root, child))

    def without(self, group: str) -> tuple[dict[str, str], dict[str, list[File]]]:
        """Choices and files that do not belong to a group and are not interpolated."""
        skipped = {group, *self.templates}
        choices = {key: value for key, value in self.choices.items() if key not in skipped}
        files = {key: value for key, value in self.segments.items() if key not in skipped}
        return choices, files


def _children(node: DefaultsTreeNode) -> list[DefaultsTreeNode | InputDefault]:
    return node.children or []


def _files(root: DefaultsTreeNode, child: DefaultsTreeNode | InputDefault) -> Iterator[File]:
    tree = DefaultsTreeNode(node=root.node, children=[child], parent=root.parent)
    for result in _tree_to_list(tree):
        yield str(result.config_path), result.package


def mapping(node: Any) -> Plain:
    """A DictConfig as nested dictionaries, interpolations as they are written."""
    plain = OmegaConf.to_container(node)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _is_suite(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("suite"), list | dict)


def merge(below: Plain, above: Mapping[str, Any]) -> None:
    """Set the values of `above` in `below`: mappings are merged, other values replaced.

    Raises NotCovered for a list over a mapping and the reverse, which OmegaConf refuses.
    """
    for key, value in above.items():
        present = below.get(key)
        if {type(present), type(value)} == {dict, list}:
            raise NotCovered(f"{key} is a list and a mapping")
        if isinstance(value, Mapping):
            if isinstance(present, str) and "${" in present:
                raise NotCovered(f"{key} is merged into {present}")
            if not isinstance(present, dict):
                below[key] = present = {}
            merge(present, value)
        elif value != MISSING or key not in below:
            below[key] = copy.copy(value)


def assigned(plain: Plain, override: Override) -> Plain:
    """A copy with a value of the command line, whose key exists; it shares the other nodes.

    Raises NotCovered for other overrides.
    """
    value = override.value()
    *above, last = override.key_or_group.split(".")
    if override.type is not OverrideType.CHANGE or override.package is not None:
        raise NotCovered(override.input_line)
    changed = dict(plain)
    node: Any = changed
    for key in above:
        if not isinstance(node.get(key), dict):
            raise NotCovered(override.input_line)
        node[key] = dict(node[key])
        node = node[key]
    if last not in node or isinstance(node[last], dict):
        raise NotCovered(override.input_line)
    if isinstance(value, dict) and node[last] is not None:  # Hydra merges them
        raise NotCovered(override.input_line)
    node[last] = value
    return changed
