"""Runs for tests of launchers: they import no torch, and do what their task says."""

import os
import signal
import time
from pathlib import Path

from petlbench.run.claims import Claims
from petlbench.run.record import Record
from petlbench.sweep.launchers.launcher import Assignment


def execute(assignment: Assignment) -> Record | None:
    """A record with the worker's PID, GPU and threads; every try leaves a file `ID-PID`."""
    planned = assignment.planned
    root = Path(planned.config.results.root)
    claim = Claims(root).take(planned.id)
    if claim is None:
        return None
    with claim:
        tries = len(list(root.glob(f"{planned.id}-*")))
        (root / f"{planned.id}-{os.getpid()}").touch()
        what = planned.varied[0] if planned.varied else ""
        if what == "always killed" or (what == "killed once" and tries == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "fails":
            raise RuntimeError("no later run could be recorded")
        if what == "long" or (what == "long once" and tries == 0):
            time.sleep(60)
        time.sleep(0.02)
        return {
            "status": "finished",
            "id": planned.id,
            "pid": os.getpid(),
            "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "threads": os.environ["OMP_NUM_THREADS"],
            "processors": os.environ.get("PETLBENCH_PROCESSORS"),
        }
