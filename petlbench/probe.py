"""python -m petlbench.probe: python -m petlbench protocol=probe."""

from petlbench.__main__ import run_preset

if __name__ == "__main__":
    run_preset("protocol=probe")
