"""A value of another type than its key has, as OmegaConf refuses it, in one line."""

import re

from omegaconf.errors import OmegaConfBaseException

from petlbench.errors import first_line

# The patterns below are messages of OmegaConf 2.3; others are shown as they are.
TYPES = {"Float": "a number", "Integer": "a whole number"}


def wrong_value(error: OmegaConfBaseException) -> str:
    """A value of another type than its key has."""
    line, key = first_line(error), error.full_key or ""
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", line):
        return f"{key} is {match[1]}; it must be {TYPES.get(match[2], match[2])}"
    if match := re.match(r"Value '(.*)' is not a valid bool", line):
        return f"{key} is {match[1]}; it must be true or false"
    if match := re.match(r"Cannot convert '(\w+)' to string: '(.*)'", line):
        return f"{key} is {match[2]}; it must be a text"
    if match := re.match(r"field '([\w.]+)' is not Optional", line):
        return f"{match[1]} is null; set {match[1]} to a value"
    if match := re.match(r"Interpolation key '([^']+)' not found", line):
        return (
            f"{key or 'a value'} refers to ${{{match[1]}}}, and no key has this name; petlbench "
            "run --cfg job prints all keys"
        )
    if match := re.match(r"Key '([^']+)' not in '\w+'", line):
        return f"no key '{key or match[1]}' to set; petlbench run --cfg job prints all keys"
    if match := re.search(r"does not support deletion|DictConfig in struct mode", line):
        return f"{key} cannot be deleted; set {key}=VALUE"
    if match := re.match(r"Invalid type assigned: (\w+) is not a subclass of \w+", line):
        return f"{key} is a single value; set its keys, {key}.KEY=VALUE"
    if re.match(r"Invalid value assigned: \w+ is not a ListConfig", line):
        return f"{key} is a single value; it must be a list such as [1,2]"
    if re.match(r"Cannot assign \w+ to Dict", line):
        return f"{key} is a single value; set its keys, {key}.KEY=VALUE"
    return f"{key}: {line}" if key and key not in line else line
