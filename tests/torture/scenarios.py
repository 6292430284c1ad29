"""What is attacked: commands, their input, and what they leave if nothing goes wrong."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import trees
from tests.test_data_prepare import pack
from tests.torture.processes import Command

ROOT = Path(__file__).parent.parent.parent
QUICK = ("train.epochs=1", "train.schedule.warmup_epochs=0", "device=cpu")
SMALL = ("dataset.images=1300", "dataset.sha256=null")
# of a record: what does not depend on the moment of the run
KEPT = ("id", "status", "reason", "factors", "protocol", "config", "scores", "selection", "curve")
Snapshot = dict[str, str]


@dataclass(frozen=True)
class Scenario:
    """prepare: makes the input in a new folder and returns the command that runs there."""

    name: str
    prepare: Callable[[Path], Command]


def snapshot(folder: Path) -> Snapshot:
    """Files below a folder, by their content; records by what a run decides."""
    found: Snapshot = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            # the store of decoded images is named by the place of the images
            stored = name.startswith("cache/folder/")
            name = re.sub("[0-9a-f]{16}", "*", name) if stored else name
            while name in found:
                name += "+"
            found[name] = "" if stored and path.suffix != ".u8" else _digest(path)
    return found


def records(folder: Path) -> dict[str, int]:
    """Finished records below a folder, and the time that each was written, in ns."""
    return {
        path.as_posix(): path.stat().st_mtime_ns
        for path in folder.glob("results/runs/**/*.json")
        if (record := _json(path)) and record.get("status") == "finished"
    }


def _digest(path: Path) -> str:
    if path.suffix == ".log":
        return ""  # it has times
    record = _json(path) if path.suffix == ".json" else None
    if record and "factors" in record:
        return json.dumps({key: record.get(key) for key in KEPT}, sort_keys=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def sweep(folder: Path) -> Command:
    """Four runs that build the cache of the images first."""
    axes = ("-m", "method=linear,bitfit", "dataset=mini/location", "seed=0,1")
    return _petlbench(*axes, *QUICK, *SMALL)


def images_of_a_folder(folder: Path) -> Command:
    """One run on own images, which builds the store of decoded images."""
    draw = np.random.default_rng(0)
    for split, number in (("train", 120), ("test", 60)):
        for place in range(number):
            path = folder / "photos" / split / f"class {place % 3}" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 255, (160, 160, 3), dtype=np.uint8)).save(path)
    data = ("dataset=folder", "dataset.root=photos", "input.size=48")
    return _petlbench("method=linear", "backbone=vit_mini", *data, *QUICK)


def report(folder: Path) -> Command:
    runs = ROOT / "results" / "measured" / "demo" / "runs"
    return Command("petlbench.report", ("demo", "--records", str(runs), "--out", "out"))


def prepare(folder: Path) -> Command:
    """An archive of one task, unpacked and checked."""
    source = folder.parent / f"{folder.name}-source"
    trees.vtab_task(source)
    archive = pack(source, folder.parent / f"{folder.name}.zip")
    arguments = ("prepare", "vtab/kitti", str(archive), "--root", "data")
    shrink = partial(trees.shrink, pytest.MonkeyPatch(), Path("cache"))
    return Command("petlbench.data", arguments, setup=shrink)


def fetch(url: str, sha256: str, folder: Path) -> Command:
    return Command("petlbench.data", ("fetch", url, "--sha256", sha256, "--to", "."))


def _petlbench(*arguments: str) -> Command:
    return Command("petlbench", arguments, environment={"PETLBENCH_CACHE": "cache"})


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """The address and the SHA-256 of a file of 40 MB, on a server in a process of its own."""
    content = np.random.default_rng(0).bytes(40_000_000)
    (folder / "a.bin").write_bytes(content)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        pid = os.fork()
        if pid == 0:
            server.serve_forever()
        try:
            yield (
                f"http://127.0.0.1:{server.server_port}/a.bin",
                hashlib.sha256(content).hexdigest(),
            )
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
