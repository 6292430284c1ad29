"""The content of yaml text."""

from typing import Any

import yaml

# libyaml's is ten times as fast, and a report reads a hundred files; not every build has it
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parsed(text: str) -> Any:
    """The content of a yaml text, None if it is empty. Raises yaml.YAMLError if it is not yaml."""
    return yaml.load(text, LOADER)
