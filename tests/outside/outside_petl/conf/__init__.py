"""Options for petlbench."""
