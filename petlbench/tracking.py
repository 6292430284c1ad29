"""python -m petlbench.tracking: Weights & Biases before and after the runs."""

import sys

from petlbench.commands.tracking.main import main

if __name__ == "__main__":
    sys.exit(main())
