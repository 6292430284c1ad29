"""What the user is told of a checkpoint that cannot be loaded."""

from collections.abc import Mapping
from pathlib import Path

from petlbench.errors import UserError, first_line


def headless(path: Path, shapes: Mapping[str, tuple[int, ...]], why: str) -> UserError:
    """There is no classifier to start the head from."""
    return UserError(
        f"backbone.head_start=stored needs a classifier with {listed(shapes)}, and checkpoint "
        f"'{path}' holds no such one: {why}; set backbone.head_start=small_normal"
    )


def listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """`weight (10, 64), bias (10,)`"""
    return ", ".join(f"{key.rpartition('.')[2]} {shape}" for key, shape in sorted(shapes.items()))


def unfit(path: Path, why: str) -> UserError:
    """It is of another network."""
    return UserError(f"checkpoint '{path}' does not fit the network: {why}; check backbone.name")


def damaged(path: Path, error: Exception) -> UserError:
    """It cannot be read."""
    if isinstance(error, PermissionError):
        return UserError(f"checkpoint '{path}' cannot be read: {error.strerror}")
    line = first_line(error)
    if "allow_pickle" in line:  # numpy's advice is to run what the file says
        line = "it holds Python objects, which are not loaded"
    return UserError(f"checkpoint '{path}' cannot be read, is it cut short? ({line})")


def more(keys: list[str]) -> str:
    """How many others there are beside the first, which is named."""
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
