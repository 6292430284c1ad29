"""The task that a configuration names. Imports no torch."""

from collections.abc import Callable

from petlbench.config import target
from petlbench.config.nodes import Input
from petlbench.config.schema import Config
from petlbench.data.images import View
from petlbench.data.task import Task
from petlbench.errors import UserError


def task(config: Config) -> Task:
    """The task; its splits open on demand."""
    node = config.dataset.target
    built = reader(config)(**node.values, view=view(config.input))
    if not isinstance(built, Task):
        raise UserError(f"dataset._target_ {node.path} returns a {type(built).__name__}, no Task")
    if built.names is not None and len(built.names) != built.classes:
        raise UserError(
            f"dataset._target_ {node.path} names {len(built.names)} of {built.classes} classes; "
            "give Task.names a name for each, or None"
        )
    return built


def reader(config: Config) -> Callable[..., object]:
    """The function that reads the task. Raises UserError for values that it does not take."""
    node = config.dataset.target
    function: Callable[..., object] = target.find(node.path, "dataset._target_")
    if not callable(function):
        raise UserError(f"dataset._target_ {node.path} is not a function that returns a Task")
    # `task` adds the view
    target.check_arguments(function, node.values, "dataset", given=["view"])
    return function


def view(node: Input) -> View:
    """How images become the network's square ones."""
    return View(node.size, node.interpolation, node.resize, node.aspect)
