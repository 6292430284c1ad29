"""Launchers distribute the runs of a plan; the store and its claims decide what is to be done."""
