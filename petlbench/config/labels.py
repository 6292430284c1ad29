"""The names of options in records: a label must not contradict the values that it stands for.

A method, a data set or a protocol is named by its option, so a value that makes it another one is
refused. A backbone with another network is named by that network.
"""

import re
from collections.abc import Mapping
from typing import Any

from petlbench.config import options
from petlbench.errors import UserError

# The keys of a group that say what its option is; of a data set also how large it is.
NAMING = {
    "method": ("_target_",),
    "dataset": ("_target_", "name", "task", "suite", "shots"),
    "protocol": ("name", "fit_on", "select_on"),
}
PARENT = re.compile(r"/?(?:(?P<group>.+)/)?(?P<name>[^/@]+)(@.*)?")  # in a defaults list
Plain = Mapping[str, Any]


def check(plain: Plain, choices: Mapping[str, str]) -> None:
    """Refuse values that contradict the options that were chosen.

    plain: the composed configuration. choices: the option of each group.
    """
    for group, keys in NAMING.items():
        option = choices.get(group)
        own = _values(group, option) if option else {}
        for key in keys:
            node = plain.get(group, {})
            if key in node and _is_fixed(own, key) and node[key] != own.get(key):
                raise UserError(
                    f"{group}.{key} is {node[key]} and that of {group}={option} is "
                    f"{own.get(key)}, so records would name the wrong {group}; choose the option "
                    f"of {group} that has it, or write a yaml file for it"
                )


def backbone(name: str, option: str) -> str:
    """What a backbone is called in records: the option, or the network that replaces its own."""
    return option if _values("backbone", option).get("name") in (name, None) else name


def _is_fixed(own: Plain, key: str) -> bool:
    """Whether the yaml of an option decides a key, rather than the command."""
    value = own.get(key)
    if value is None:
        # without a name of its own, a task is called as its option
        return key in own or (key == "task" and bool(own))
    return not (isinstance(value, str) and ("${" in value or value == "???"))


def _values(group: str, option: str) -> Plain:
    """The node of a group as the yaml of an option, with those that it extends, gives it."""
    return _merged(group, group, option)


def _merged(group: str, place: str, option: str) -> dict[str, Any]:
    """The node `group` of an option of the group `place`."""
    content = options.shared_content(place, option)
    values: dict[str, Any] = {}
    for parent in content.get("defaults", []):
        # others choose options of other groups
        if isinstance(parent, str) and (match := PARENT.fullmatch(parent)):
            values |= _merged(group, match["group"] or place, match["name"])
    own = content.get(group)
    # an option that sets global keys (vit_mini.yaml) has its values one level deeper
    return values | dict(own if isinstance(own, dict) else content)
