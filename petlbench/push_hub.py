"""python -m petlbench.push_hub: the delta of a run with a model card, for Hugging Face."""

import sys

from petlbench.commands.push_hub import main

if __name__ == "__main__":
    sys.exit(main())
