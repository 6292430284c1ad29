"""python -m petlbench.multitask -m: python -m petlbench -m experiment=multitask."""

from petlbench.probe.command import run

if __name__ == "__main__":
    run("experiment=multitask")
