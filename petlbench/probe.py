"""python -m petlbench.probe: python -m petlbench protocol=probe."""

from petlbench.commands.preset import run

if __name__ == "__main__":
    run("protocol=probe")
