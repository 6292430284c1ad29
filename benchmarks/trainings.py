"""CPU seconds of whole trainings on the embedded suite, beside an earlier petlbench.

    git clone . BEFORE && git -C BEFORE checkout COMMIT
    python -m benchmarks.trainings BEFORE

Both trees take turns, with equal settings and one thread. Each method is trained alone, in
a process of its own, and then all of them with several seeds in one process, as a sweep does.
Writes a record beside those of `benchmarks`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.__main__ import FOLDER

FILE = "training.json"
NOW = Path(__file__).parents[1]
DRIVER = Path(__file__).with_name("one_training.py")
BARS = {"linear": 0.05, "lst": 0.5, "dtl": 0.65, "dtl_plus": 0.65}
SETTINGS = ("dataset=mini/digits", "device=cpu")
ALONE = ("seed=0",)
SWEPT = ("seed=0,1,2",)
Ended = dict[str, dict[str, Any]]  # by the method


def run(tree: Path, arguments: Iterable[str]) -> Ended:
    """CPU seconds of the trainings of one process of the petlbench in `tree`, and their scores.

    Both are means over the seeds of a method.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds"
        command = [sys.executable, str(DRIVER), str(file), *arguments]
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        root = f"results.root={folder}/runs"
        subprocess.run([*command, *SETTINGS, root], cwd=folder, env=environment, check=True)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        records = [
            json.loads(path.read_text()) for path in Path(folder).glob("runs/mini/digits/*.json")
        ]
    assert len(lines) == len(records), "a training has no record"
    methods = dict.fromkeys(line["method"] for line in lines)
    return {method: _ended(method, lines, records) for method in methods}


def _ended(
    method: str, lines: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    own = [record for record in records if record["factors"]["method"] == method]
    return {
        "seconds": statistics.mean(line["seconds"] for line in lines if line["method"] == method),
        "top1": statistics.mean(record["scores"]["test"]["top1"] for record in own),
        "epochs": own[0]["config"]["train"]["epochs"],
        "device": own[0]["provenance"]["device"],
        "versions": own[0]["provenance"]["versions"],
    }


class Comparison:
    """The record of both trees, which take turns. path: of its file, written after each turn."""

    def __init__(self, before: Path, repeats: int, path: Path) -> None:
        self.trees = {"now": NOW, "before": before.resolve()}
        self.repeats = repeats
        self.path = path
        self.record: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "cores": os.cpu_count(),
            "settings": list(SETTINGS),
            "versions": {},
        }

    def measure(self, part: str, methods: Sequence[str], arguments: Sequence[str]) -> None:
        """A row in a part of the record for each method; one process trains all of them."""
        rows = {name: _row(name) for name in methods}
        self.record.setdefault(part, []).extend(rows.values())
        for _ in range(self.repeats):
            for form, tree in self.trees.items():
                for name, ended in run(tree, arguments).items():
                    self._note(rows[name], form, ended)
        self.path.write_text(json.dumps(self.record, indent=1) + "\n")

    def _note(self, row: dict[str, Any], form: str, ended: Mapping[str, Any]) -> None:
        self.record |= {key: ended[key] for key in ("device", "epochs")}
        self.record["versions"][form] = ended["versions"]
        row["seconds"].setdefault(form, []).append(ended["seconds"])
        row["top1"][form] = ended["top1"]
        print(row["method"], form, f"{ended['seconds']:.2f} s", flush=True)


def _row(method: str) -> dict[str, Any]:
    return {"method": method, "bar": BARS[method], "seconds": {}, "top1": {}}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trainings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, help="a tree of the earlier petlbench")
    parser.add_argument("--method", action="append", choices=BARS, help="may be repeated")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each (default: 3)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the record")
    options = parser.parse_args()
    methods = options.method or list(BARS)
    comparison = Comparison(options.before, options.repeats, options.out / FILE)
    for name in methods:
        comparison.measure("alone", [name], (f"method={name}", *ALONE))
    comparison.measure("swept", methods, ("-m", f"method={','.join(methods)}", *SWEPT))
    print(f"wrote {comparison.path}")


if __name__ == "__main__":
    main()
