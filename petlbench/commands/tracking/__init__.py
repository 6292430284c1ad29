"""python -m petlbench.tracking: Weights & Biases before and after the runs."""
