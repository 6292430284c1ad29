"""python -m petlbench.multitask -m: python -m petlbench -m experiment=multitask."""

from petlbench.__main__ import run_preset

if __name__ == "__main__":
    run_preset("experiment=multitask")
