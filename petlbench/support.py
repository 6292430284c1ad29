"""python -m petlbench.support: which method works on which backbone."""

import sys

from petlbench.commands.support import main

if __name__ == "__main__":
    sys.exit(main())
