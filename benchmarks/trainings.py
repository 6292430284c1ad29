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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.__main__ import FOLDER

FILE = "training.json"
NOW = Path(__file__).parents[1]
DRIVER = Path(__file__).with_name("one_training.py")
BARS = {"linear": 0.05, "lst": 0.5, "dtl": 0.65, "dtl_plus": 0.65}
SETTINGS = ("dataset=mini/digits", "device=cpu")
Ended = dict[str, dict[str, Any]]  # by the method
Process = tuple[Sequence[str], Sequence[str]]  # the methods that it trains, its arguments


def alone(methods: Sequence[str]) -> Iterator[Process]:
    """A process for each method."""
    for name in methods:
        yield [name], [f"method={name}", "seed=0"]


def swept(methods: Sequence[str]) -> Iterator[Process]:
    """One process for all of them, with several seeds."""
    yield methods, ["-m", f"method={','.join(methods)}", "seed=0,1,2"]


PARTS = {"alone": alone, "swept": swept}


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
    """A part of the record: both trees, which take turns. path: of the record."""

    def __init__(self, name: str, before: Path, path: Path) -> None:
        self.trees = {"now": NOW, "before": before.resolve()}
        self.name = name
        self.path = path
        self.part: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "cores": os.cpu_count(),
            "settings": list(SETTINGS),
            "versions": {},
            "rows": [],
        }

    def measure(self, methods: Sequence[str], arguments: Sequence[str], repeats: int) -> None:
        """A row for each method; one process trains all of them."""
        rows = {name: _row(name) for name in methods}
        self.part["rows"].extend(rows.values())
        for _ in range(repeats):
            for form, tree in self.trees.items():
                for name, ended in run(tree, arguments).items():
                    self._note(rows[name], form, ended)
        self._write()

    def _note(self, row: dict[str, Any], form: str, ended: Mapping[str, Any]) -> None:
        self.part |= {key: ended[key] for key in ("device", "epochs")}
        self.part["versions"][form] = ended["versions"]
        row["seconds"].setdefault(form, []).append(ended["seconds"])
        row["top1"][form] = ended["top1"]
        print(row["method"], form, f"{ended['seconds']:.2f} s", flush=True)

    def _write(self) -> None:
        record = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.path.write_text(json.dumps(record | {self.name: self.part}, indent=1) + "\n")


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
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="alone or swept; both by default"
    )
    parser.add_argument("--repeats", type=int, default=3, help="processes of each (default: 3)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the record")
    options = parser.parse_args()
    methods = options.method or list(BARS)
    path = options.out / FILE
    for part in options.part or PARTS:
        comparison = Comparison(part, options.before, path)
        for together, arguments in PARTS[part](methods):
            comparison.measure(together, arguments, options.repeats)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
