"""A package of another author: methods and a data set for petlbench, found by an entry point."""
