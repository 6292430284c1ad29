"""python -m petlbench.records: check records that others contribute."""

import sys

from petlbench.commands.records import main

if __name__ == "__main__":
    sys.exit(main())
