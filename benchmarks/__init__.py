"""Speed and memory of petlbench beside textbook forms of the same methods."""
