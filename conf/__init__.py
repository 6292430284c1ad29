"""The configuration tree; Hydra reads it as pkg://petlbench.conf."""
