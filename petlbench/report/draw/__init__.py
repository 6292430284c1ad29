"""Charts: scales, styles and the figures that matplotlib draws."""

import logging

# it warns of a home that it cannot write to, which no figure needs
logging.getLogger("matplotlib").setLevel(logging.ERROR)
