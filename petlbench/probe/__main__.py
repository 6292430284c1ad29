"""python -m petlbench.probe: python -m petlbench protocol=probe."""

from petlbench.__main__ import main

if __name__ == "__main__":
    main("protocol=probe")
