"""python -m petlbench.status: what a sweep has done, is doing and has to do."""

import sys

from petlbench.commands.status import main

if __name__ == "__main__":
    sys.exit(main())
