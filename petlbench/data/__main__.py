"""python -m petlbench.data: list, verify, prepare, fetch or cache data."""

import sys

from petlbench.commands.data.main import main

if __name__ == "__main__":
    sys.exit(main())
