"""Sweeps: plan, launchers, the Hydra plugin, choosing values from trials."""
