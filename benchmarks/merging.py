"""On how many images a merged network saves the time that merging takes.

    python -m benchmarks.merging
    python -m benchmarks.merging lora --backbone vit_mini

CPU seconds of forward passes on 8 images, fp32, one thread, random weights: the network as it is
trained and the merged one take turns. benchmarks/merged.py compares what they compute.
"""

import argparse
import statistics
from time import process_time

import torch

from benchmarks.compare import Setting, noise
from benchmarks.steps import in_turns
from petlbench.merge import merged
from petlbench.run import build

METHODS = ("lora", "ssf", "fact_tk")


def line(setting: Setting, name: str) -> str:
    """The comparison of one method."""
    config = setting.config(name, ())
    torch.manual_seed(0)
    method = build.method(config).eval()
    images = build.feed(config).prepare(noise(config, setting.batch).images)
    started = process_time()
    network = merged(method)
    merging = process_time() - started
    with torch.inference_mode():
        seconds = in_turns(
            {"trained": lambda: method(images), "merged": lambda: network(images)}, setting.repeats
        )
    pairs = zip(seconds["merged"], seconds["trained"], strict=True)
    ratio = statistics.median(after / before for after, before in pairs)
    saved = (1 - ratio) * statistics.median(seconds["trained"]) / setting.batch
    worth = f"as it saves on {merging / saved:.0f} images" if saved > 0 else "and saves nothing"
    return f"{name}: merged / trained {ratio:.3f}; merging takes {merging:.2f} s, {worth}"


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.merging",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("methods", nargs="*", default=METHODS, metavar="METHOD")
    parser.add_argument("--backbone", default="vit_b16")
    parser.add_argument("--repeats", type=int, default=7, help="measured passes (default: 7)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting((f"backbone={options.backbone}",), 8, options.repeats, "cpu", "fp32")
    for name in options.methods:
        print(line(setting, name), flush=True)


if __name__ == "__main__":
    main()
