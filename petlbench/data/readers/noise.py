"""The task of a probe: a number of classes, and no images."""

from petlbench.data.images import View
from petlbench.data.task import Split, Task
from petlbench.errors import UserError


def nothing(*, suite: str, title: str, group: str, classes: int, view: View) -> Task:
    """A task without splits: a probe measures on noise."""
    return Task(
        name=suite,
        title=title,
        suite=suite,
        group=group,
        classes=classes,
        tests=(),
        train_splits=(),
        open=_refuse,
    )


def _refuse(name: str) -> Split:
    raise UserError(
        f"dataset=probe has no images (split {name}): python -m petlbench.probe measures on "
        "noise; to train, choose a task such as dataset=mini/digits"
    )
