"""The reports of `python -m petlbench.data` as tables on a terminal."""

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Report = dict[str, Any]
MAX_LINES = 10  # on one task; --json has all


def verify(report: Report, console: Console) -> None:
    """A row for each split, then defects and notes."""
    table = _table("task", "split", "images", "labels", "classes", "files", "px", "MB", "sha256")
    for task in report["tasks"]:
        for split, about in task["splits"].items():
            table.add_row(task["task"], split, *_split(about))
        if not task["splits"]:
            table.add_row(task["task"], "not readable")
    console.print(table)
    for task in report["tasks"]:
        for key, word in (("defects", "WRONG"), ("notes", "note")):
            for line in _first(task[key]):
                _line(console, f"{task['task']}: {word}: {line}")
    wrong = [task["task"] for task in report["tasks"] if task["defects"]]
    count = f"{len(report['tasks']) - len(wrong)} of {len(report['tasks'])} tasks are right"
    _line(console, f"{count}; wrong: {', '.join(wrong)}" if wrong else count)


def _split(about: Report) -> Iterable[str]:
    labels = about["labels"]
    present = labels["classes"] - len(labels["missing"])
    yield f"{about['images']:,}"
    yield f"{labels['lowest']}-{labels['highest']}"
    yield f"{present} of {labels['classes']}"
    if "formats" in about:
        lossy = about["lossy"]
        loss = "lossy" if lossy == about["images"] else f"{lossy} lossy" if lossy else "lossless"
        yield f"{', '.join(about['formats']) or 'none'} ({loss})"
        ends = {"x".join(map(str, size)) for size in _ends(about["sizes"])}
        yield " to ".join(sorted(ends, key=len))
        yield f"{about['bytes'] / 1e6:.1f}"
    else:
        yield from ("none needed", "", "")
    yield about["fingerprint"][:12]


def _ends(sizes: Report) -> list[list[int]]:
    return [*sizes["smallest"], *sizes["largest"]]


def prepare(report: Report, console: Console) -> None:
    """A row for each folder."""
    table = _table("folder", "state", "files", "MB")
    for row in report["folders"]:
        files = f"{row['files']:,}" if "files" in row else ""
        table.add_row(row["folder"], row["state"], files, _mb(row))
    console.print(table)
    if report["absent"]:
        _line(console, f"still missing: {', '.join(report['absent'])}")
    if report["ok"]:
        # --root is the folder above the suite's
        root = shlex.quote(str(Path(report["root"]).parent))
        _line(console, f"next: python -m petlbench.data verify {report['suite']} --root {root}")


def fetch(report: Report, console: Console) -> None:
    """One line on the file."""
    megabytes = report["bytes"] / 1e6
    _line(console, f"{report['state']}: {report['file']} ({megabytes:.1f} MB, sha256 is right)")


def cache(report: Report, console: Console) -> None:
    """A row for each split."""
    table = _table("task", "split", "state", "images", "MB", "sha256 of the pixels")
    for row in report["splits"]:
        images = f"{row['images']:,}" if "images" in row else ""
        digest = row.get("sha256", "")[:12]
        table.add_row(row["task"], row.get("split", ""), row["state"], images, _mb(row), digest)
    console.print(table)
    for row in report["splits"]:
        if "reason" in row:
            _line(console, f"{row['task']}: WRONG: {row['reason']}")
    made = sum(row["state"] == "made" for row in report["splits"])
    there = sum(row["state"] == "there" for row in report["splits"])
    _line(console, f"{made} made, {there} existed before")


def listing(report: Report, console: Console) -> None:
    """A row for each task, and a line for each suite."""
    for suite in report["suites"]:
        table = _table("task", "images", "files GB", "decoded GB", "of GB", "")
        for task in suite["tasks"]:
            gigabytes = (task[key] / 1e9 for key in ("bytes", "decoded_there", "decoded_bytes"))
            state = (task["missing"] or task["state"]).removeprefix(f"{task['task']} has ")
            numbers = (f"{task['images']:,}", *(f"{number:.2f}" for number in gigabytes))
            # the first clause of the sentence; advice follows it
            table.add_row(task["task"], *numbers, re.split(r";| \(nor", state)[0])
        console.print(table)
        available = sum(not task["missing"] for task in suite["tasks"])
        _line(
            console,
            f"{suite['suite']}: {available} of {len(suite['tasks'])} tasks are available; files "
            f"{suite['bytes'] / 1e9:.2f} GB; all lists decoded at {report['size']} px: "
            f"{suite['decoded_bytes'] / 1e9:.2f} GB",
        )
    _line(console, "docs/data.md describes what each suite needs")


SHOWS: dict[str, Callable[[Report, Console], None]] = {
    "list": listing,
    "verify": verify,
    "prepare": prepare,
    "fetch": fetch,
    "cache": cache,
}


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        is_number = name == "images" or name.endswith(("MB", "GB"))
        table.add_column(
            name,
            justify="right" if is_number else "left",
            overflow="fold",  # rich would cut long paths with an ellipsis
            no_wrap=name in ("task", "split", "folder", "state", "images"),
        )
    return table


def _first(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - MAX_LINES
    return [*lines[:MAX_LINES], *([f"and {rest} more; --json has all"] if rest > 0 else [])]


def _line(console: Console, line: str) -> None:
    # markup off: rich reads [...] in a path as a style; soft_wrap: a line stays one for grep
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _mb(row: Report) -> str:
    return f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else ""
