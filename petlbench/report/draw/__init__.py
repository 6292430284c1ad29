"""Charts: scales, styles and the figures that matplotlib draws."""
