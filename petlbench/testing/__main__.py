"""python -m petlbench.testing METHOD [METHOD ...]: the properties of a method, one line each."""

import sys

from petlbench.commands.testing import main

if __name__ == "__main__":
    sys.exit(main())
