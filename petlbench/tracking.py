"""python -m petlbench.tracking: Weights & Biases after the runs."""

import sys

from petlbench.commands.tracking import main

if __name__ == "__main__":
    sys.exit(main())
