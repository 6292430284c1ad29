"""The subcommands of python -m petlbench.data, one a file, and what they share."""
