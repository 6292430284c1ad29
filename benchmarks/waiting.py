"""What a training step takes when the threads of an operation spin longer or shorter.

    python -m benchmarks.waiting
    python -m benchmarks.waiting --busy 8       beside so many other processes that use a processor

Milliseconds of a training step of LoRA on vit_mini, 32 images, two threads: with libgomp's
default, with petlbench's and without spinning, each in a process of its own (docs/speed.md).
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from petlbench.system import SPINS

FORMS = {
    "300000 rounds": {"GOMP_SPINCOUNT": "300000"},  # libgomp's default
    f"{SPINS} rounds": {"GOMP_SPINCOUNT": str(SPINS)},
    "no spinning": {"OMP_WAIT_POLICY": "PASSIVE"},
}
KEYS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def measured(variables: dict[str, str], repeats: int) -> str:
    """What `one_step` prints in a process with these variables."""
    others = {key: value for key, value in os.environ.items() if key not in KEYS}
    command = [sys.executable, "-m", "benchmarks.one_step", str(repeats)]
    done = subprocess.run(command, env=others | variables, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Beside so many processes that use a processor each."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Print a line for each form."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.waiting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--busy", type=int, default=0, help="other processes (default: 0)")
    parser.add_argument("--repeats", type=int, default=15, help="measured steps (default: 15)")
    options = parser.parse_args()
    with busy(options.busy):
        for name, variables in FORMS.items():
            print(f"{name}: {measured(variables, options.repeats)}", flush=True)


if __name__ == "__main__":
    main()
