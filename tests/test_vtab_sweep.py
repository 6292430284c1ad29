"""All of VTAB-1K in one command, on a small copy of its nineteen folders."""

import csv
import signal
from pathlib import Path

import pytest

from petlbench.config import compose
from petlbench.report.__main__ import main as report
from petlbench.report.read.rows import members
from tests import trees
from tests.processes import command, finished, records, wait_for

IMAGES = 40  # files of a task; its lists name them again and again
SWEEP = [
    "-m",
    "method=dtl,lora",
    "dataset=vtab",
    "backbone=vit_mini",
    "backbone.pretrained=false",
    "input.size=16",
    "train.epochs=1",
    "train.batch_size=250",
    "dataset.test_images=60",
]


def small_copy(root: Path) -> list[str]:
    """Write the folders with their lists and true class counts; return the tasks."""
    tasks = members("dataset", "vtab")
    for place, task in enumerate(tasks):
        dataset = compose.single([f"dataset={task}"]).dataset
        folder = root / "vtab" / task.removeprefix("vtab/")
        for number in range(IMAGES):
            trees.paint(folder / "images" / f"{number:06d}.png", IMAGES * place + number)
        for split, count in {"train800": 800, "val200": 200, "test": 60}.items():
            lines = [f"images/{n % IMAGES:06d}.png {n % dataset.classes}\n" for n in range(count)]
            (folder / f"{split}.txt").write_text("".join(lines))
        both = (folder / "train800.txt").read_text() + (folder / "val200.txt").read_text()
        (folder / "train800val200.txt").write_text(both)
    return tasks


@pytest.mark.slow
def test_one_command_runs_all_tasks_resumes_and_makes_the_table(tmp_path: Path) -> None:
    tasks = small_copy(tmp_path / "data")
    assert len(tasks) == 19
    process = command(tmp_path, *SWEEP, f"data.root={tmp_path / 'data'}")
    wait_for(tmp_path, 5)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    before = records(tmp_path)
    code, output = finished(tmp_path, *SWEEP, f"data.root={tmp_path / 'data'}")
    assert code == 0, output
    assert f"plan: 38 runs, {len(before)} finished (skipped), {38 - len(before)} to run" in output
    after = records(tmp_path)
    assert len(after) == 38
    assert before.items() <= after.items()
    out = tmp_path / "table"
    folder = str(tmp_path / "results" / "runs")
    assert report(["table", "--records", folder, "--out", str(out), "--name", "vtab"]) == 0
    with (out / "vtab.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["LoRA", "DTL"]
    for row in rows:
        scores = {task: float(row[task]) for task in tasks}
        groups = (tasks[:7], tasks[7:11], tasks[11:])
        means = [sum(scores[task] for task in group) / len(group) for group in groups]
        assert abs(float(row["group mean"]) - sum(means) / 3) < 1e-6
        assert abs(float(row["task mean"]) - sum(scores.values()) / 19) < 1e-6
