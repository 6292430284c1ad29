"""python -m petlbench.predict: classify images with a fine-tuned network."""

import sys

from petlbench.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
