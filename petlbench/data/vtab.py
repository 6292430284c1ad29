"""VTAB-1K. The tasks are configured; the reader of their lists is not part of this version."""

from petlbench.data.task import Task
from petlbench.errors import UserError


def load(
    *, name: str, title: str, suite: str, group: str, classes: int, test_images: int, root: str
) -> Task:
    """Refuse in one line: a plan can be made for VTAB-1K, a run not yet."""
    raise UserError(
        f"vtab/{name} cannot be run: this version of petlbench has no reader for the lists under "
        f"'{root}'; dataset=mini runs without any data"
    )
