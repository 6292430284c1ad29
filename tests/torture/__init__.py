"""Attacks that take minutes. `make torture` runs them."""
