"""Linear probing: trains the classification head only."""

from petlbench.method import Method


class Linear(Method):
    """Trains only the head, as every method does."""
