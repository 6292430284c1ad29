"""Milliseconds of training steps in a process whose threads wait as its environment says.

    python -m benchmarks.one_step REPEATS       a line with the median, the least and the greatest

`benchmarks.waiting` starts it. LoRA on vit_mini, 32 images of noise, two threads.
"""

import statistics
import sys
import time

import torch

from benchmarks.compare import Setting
from benchmarks.steps import in_turns, step_of

THREADS = 2

if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    repeats = int(sys.argv[1])
    step = step_of(Setting(("backbone=vit_mini",), 32, repeats, "cpu", "fp32"), "lora")
    [seconds] = in_turns({"step": step}, repeats, time.perf_counter).values()
    found = (1e3 * f(seconds) for f in (statistics.median, min, max))
    print("{:.0f} ms [{:.0f}, {:.0f}]".format(*found))
