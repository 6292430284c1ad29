"""Linear probing: only the classification head is trained."""

from petlbench.method import Method


class Linear(Method):
    """Nothing but the head, which is trainable in every method."""
