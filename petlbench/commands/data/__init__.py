"""The subcommands of python -m petlbench.data, one in each file, and their helpers."""
