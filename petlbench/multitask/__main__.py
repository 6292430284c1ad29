"""python -m petlbench.multitask -m: python -m petlbench -m experiment=multitask."""

from petlbench.commands.preset import run

if __name__ == "__main__":
    run("experiment=multitask")
