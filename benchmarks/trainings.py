"""CPU seconds of whole trainings on the embedded suite, beside an earlier petlbench.

    git clone . BEFORE && git -C BEFORE checkout COMMIT
    python -m benchmarks.trainings BEFORE

Both trees take turns, with equal settings and one thread; a process for each run. Writes
a record beside those of `benchmarks`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.__main__ import FOLDER

FILE = "training.json"
NOW = Path(__file__).parents[1]
DRIVER = Path(__file__).with_name("one_training.py")
BARS = {"linear": 0.05, "lst": 0.5, "dtl": 0.65, "dtl_plus": 0.65}
SETTINGS = ("dataset=mini/digits", "seed=0", "device=cpu")


def run(tree: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """CPU seconds of a training by the petlbench in `tree`, and what its record says."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = Path(folder) / "seconds"
        command = [sys.executable, str(DRIVER), str(seconds), *overrides]
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        root = f"results.root={folder}/runs"
        subprocess.run([*command, root], cwd=folder, env=environment, check=True)
        [file] = Path(folder, "runs").glob("**/*.json")
        record = json.loads(file.read_text())
        return {
            "seconds": float(seconds.read_text()),
            "top1": record["scores"]["test"]["top1"],
            "epochs": record["config"]["train"]["epochs"],
            "device": record["provenance"]["device"],
            "versions": record["provenance"]["versions"],
        }


def measured(before: Path, methods: list[str], repeats: int) -> Iterator[dict[str, Any]]:
    """The record, after each method."""
    trees = {"now": NOW, "before": before.resolve()}
    record: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "settings": list(SETTINGS),
        "rows": [],
    }
    for method in methods:
        row: dict[str, Any] = {"method": method, "bar": BARS[method], "seconds": {}, "top1": {}}
        for _ in range(repeats):
            for form, tree in trees.items():
                ended = run(tree, (f"method={method}", *SETTINGS))
                record |= {key: ended[key] for key in ("device", "epochs")}
                record.setdefault("versions", {})[form] = ended["versions"]
                row["seconds"].setdefault(form, []).append(ended["seconds"])
                row["top1"][form] = ended["top1"]
                print(method, form, f"{ended['seconds']:.2f} s", flush=True)
        record["rows"].append(row)
        yield record


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trainings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, help="a tree of the earlier petlbench")
    parser.add_argument("--method", action="append", choices=BARS, help="may be repeated")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the record")
    options = parser.parse_args()
    path = options.out / FILE
    for record in measured(options.before, options.method or list(BARS), options.repeats):
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
