"""Commands beside python -m petlbench."""
