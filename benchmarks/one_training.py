"""The petlbench that PYTHONPATH names, and the CPU seconds of each of its trainings.

    python benchmarks/one_training.py FILE ARGUMENTS     a line into FILE for each training

`benchmarks.trainings` starts it in two trees, so it uses only what both have.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from petlbench.__main__ import main
from petlbench.train.trainer import TrainingLoop


def timed(file: Path) -> Any:
    """`TrainingLoop.train` that writes how many CPU seconds the process took for it."""
    train = TrainingLoop.train

    def call(self: TrainingLoop, method: Any) -> None:
        started = time.process_time()
        train(self, method)
        seconds = time.process_time() - started
        name = type(method).__module__.rpartition(".")[2]
        with file.open("a") as lines:
            print(json.dumps({"method": name, "seconds": seconds}), file=lines)

    return call


if __name__ == "__main__":
    TrainingLoop.train = timed(Path(sys.argv.pop(1)))  # type: ignore[method-assign]
    main()
