"""Trials of size and of damage that take minutes: scripts, each run by hand."""
