"""CPU seconds of the digests of 50,000 JPEG files: the first time, in a new process, once more.

python results/measured/decoding/hashing.py > results/measured/decoding/hashing.json
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from petlbench.data import digests
from petlbench.run import provenance

FILES, SIZE = 50_000, 64


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "images", Path(folder) / "cache"
        root.mkdir()
        draw = np.random.default_rng(0)
        pixels = draw.integers(0, 255, (100, 8, 8, 3), dtype=np.uint8)
        for number in range(FILES):
            image = Image.fromarray(pixels[number % 100]).resize((SIZE, SIZE))
            image.save(root / f"{number}.jpg")
        size = sum(path.stat().st_size for path in root.iterdir())
        times = [json.loads(_in_a_new_process(root, cache)) for _ in range(2)]
    result = {
        "files": FILES,
        "megabytes": round(size / 1e6, 1),
        "first_cpu_s": times[0][0],
        "new_process_cpu_s": times[1][0],
        "again_cpu_s": times[1][1],
        "device": f"{os.cpu_count()} cores of {provenance.device_name(torch.device('cpu'))}",
        "versions": provenance.versions(),
    }
    print(json.dumps(result, indent=1))


def _in_a_new_process(root: Path, cache: Path) -> str:
    command = [sys.executable, __file__, str(root), str(cache)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def hashed(root: Path, cache: Path) -> None:
    """Print the CPU seconds of two calls in this process."""
    paths = [f"{number}.jpg" for number in range(FILES)]
    seconds = []
    for _ in range(2):
        started = time.process_time()
        digests.of_files(root, paths, cache)
        seconds.append(round(time.process_time() - started, 1))
    print(json.dumps(seconds))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        hashed(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
