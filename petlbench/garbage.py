"""When Python searches for reference cycles."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for reference cycles in the block, or in the function that this decorates.

    For work that makes many objects which stay, such as imports and plans: the searches would take
    a sixth of its time. Not for training, where a cycle may hold the tensors of a step.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
